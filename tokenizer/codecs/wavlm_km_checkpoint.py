"""Read the published files of WavLM-KM, and WavLM-large in the layout of transformers.

B batch, D feature width.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WavLMConfig

from ..focalcodec.checkpoint import check_keys, conversion_advice, read_config, read_safetensors
from ..hub import find_file
from .checkpoint import fold_weight_norm

logger = logging.getLogger(__name__)

_PARTS = ("quantizer", "dequantizer", "vocoder")  # each has its own file
_PUBLISHED_LAYERS = ((6,), (1, 3, 6))  # WavLM layers of the published models
# Fields of an official config.json -> ours. The published models have none; their sizes are our defaults.
_FIELDS = {
    "layer_ids": "layer_ids",
    "num_features": "num_features",
    "num_clusters": "num_clusters",
    "d_model": "dim",
    "nhead": "num_heads",
    "num_layers": "num_layers",
    "d_ffn": "ffn_dim",
    "max_length": "max_length",
    "conformer_kernel_size": "kernel_size",
    "upsample_initial_channel": "vocoder_channels",
    "upsample_factors": "vocoder_factors",
    "resblock_kernel_sizes": "vocoder_kernel_sizes",
}
# Beginnings of our keys -> official ones. Other keys are the same.
_PREFIXES = {
    "dequantizer.in_proj.": "dequantizer.backbone.custom_src_module.layers.0.w.",
    "dequantizer.positions": "dequantizer.backbone.positional_encoding.pe",
    "dequantizer.norm.": "dequantizer.backbone.encoder.norm.norm.",
    "vocoder.generator.in_conv.": "vocoder.conv_pre.conv.",
    "vocoder.generator.out_conv.": "vocoder.conv_post.conv.",
}
# The same inside a layer of the Conformer.
_LAYER_PREFIXES = {
    "first_half.0.": "ffn_module1.0.",
    "first_half.1.": "ffn_module1.1.ffn.0.",
    "first_half.3.": "ffn_module1.1.ffn.3.",
    "attention_norm.": "norm1.norm.",
    "attention.qkv_proj.": "mha_layer.att.in_proj_",
    "attention.out_proj.": "mha_layer.att.out_proj.",
    "convolution.input_norm.": "convolution_module.layer_norm.",
    "convolution.in_proj.": "convolution_module.bottleneck.0.",
    "convolution.conv.": "convolution_module.conv.",
    "convolution.norm.": "convolution_module.after_conv.0.",
    "convolution.out_proj.": "convolution_module.after_conv.2.",
    "second_half.0.": "ffn_module2.0.",
    "second_half.1.": "ffn_module2.1.ffn.0.",
    "second_half.3.": "ffn_module2.1.ffn.3.",
    "norm.": "norm2.norm.",
}
# A convolution with a kernel of one frame in the official files, and a linear layer in ours.
_POINTWISE_KEY = "convolution_module.bottleneck.0.weight"

WAVLM_HUB_ID = "microsoft/wavlm-large"
WAVLM_WIDTH = 1024
_WAVLM_FOLDER = "wavlm-large"  # beside the files of a codec
# Options of the WavLM-KM repository that do not apply to the WavLM repository.
_CODEC_OPTIONS = ("revision", "subfolder")
# Fields of WavLM's config for which only one value is supported.
_WAVLM_OPTIONS = {
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": False,
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
}
# Patterns of the keys of transformers -> ours. The first match is used.
_WAVLM_KEYS = (
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"feature_extractor.layers.\1.norm."),
    (r"feature_projection\.layer_norm\.", "norm."),
    (r"feature_projection\.projection\.", "feature_proj."),
    (r"encoder\.pos_conv_embed\.", "encoder.positional_embedding."),
    (r"encoder\.layers\.0\.attention\.rel_attn_embed\.", "encoder.relative_embedding."),
    (r"(encoder\.layers\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.feed_forward_norm."),
    (r"(encoder\.layers\.\d+\.feed_forward)\.intermediate_dense\.", r"\1.in_proj."),
    (r"(encoder\.layers\.\d+\.feed_forward)\.output_dense\.", r"\1.out_proj."),
)
# Only needed for training, and after the last layer.
_WAVLM_UNUSED_PREFIXES = ("masked_spec_embed", "encoder.layer_norm.")

# Fields of our `WavLMConfig`, whether waveforms are normalized, and tensors.
WavLM = tuple[dict[str, Any], bool, dict[str, Tensor]]


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config is the official one."""
    return {"layer_ids", "num_clusters", "conformer_kernel_size"} <= config.keys()


def find_published_layers(
    source: str | Path, num_codebooks: int | None, kwargs: dict[str, Any]
) -> tuple[int, ...] | None:
    """Find out which published model is in a folder or hub id without config.json.

    Returns:
        Its WavLM layers, or None if there is no published model. If there are several, `num_codebooks` decides; the
        model of layer 6 is the default.
    """
    for layers in _PUBLISHED_LAYERS:
        if num_codebooks in (None, len(layers)) and find_file(source, _file_name("quantizer", layers), kwargs):
            return layers
    return None


def read_tensors(source: str | Path, layer_ids: Sequence[int], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Read the tensors of the three files, with the part as a prefix, or those of model.safetensors.

    Raises:
        OSError: A file is missing.
        ValueError: A file is damaged.
    """
    paths = {}
    absent = []
    for part in _PARTS:
        name = _file_name(part, layer_ids)
        path = find_file(source, name, kwargs)
        if path is None:
            absent.append(name)
        else:
            paths[part] = path
    single_file = find_file(source, "model.safetensors", kwargs)
    if not paths and single_file is not None:
        return read_safetensors(single_file)
    if absent:
        raise OSError(f"{source} lacks {absent} of a WavLM-KM: fetch them from lucadellalib/discrete-wavlm-codec")
    tensors = {}
    for part, path in paths.items():
        for key, tensor in read_safetensors(path).items():
            tensors[f"{part}.{key}"] = tensor
    return tensors


def _file_name(part: str, layer_ids: Sequence[int]) -> str:
    """Name the file of a part, such as vocoder_1-3-6.safetensors."""
    layers = "-".join(str(layer) for layer in layer_ids)
    return f"{part}_{layers}.safetensors"


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Convert an official config to keyword arguments of `WavLMKMConfig`.

    Raises:
        ValueError: A missing field, or an unknown variant.
    """
    dilations = config.get("resblock_dilation_sizes", [[1, 3, 5]])
    # Every kernel is twice as long as its factor, and all residual blocks have the same dilations.
    fixed = {
        "resblock_type": "1",
        "causal": False,
        "upsample_kernel_sizes": [2 * factor for factor in config.get("upsample_factors", [])],
        "resblock_dilation_sizes": [dilations[0]] * len(dilations),
    }
    absent = [key for key in _FIELDS if key not in config]
    wrong = []
    for key, value in fixed.items():
        if config.get(key, value) != value:
            wrong.append(f"{key} is {config[key]!r}")
    if absent or wrong:
        raise ValueError(f"this WavLM-KM is not known here: its config.json lacks {absent}, {wrong}; expected {fixed}")
    converted = {ours: config[key] for key, ours in _FIELDS.items()}
    converted["vocoder_dilations"] = dilations[0]
    return converted


def convert_state_dict(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Convert official tensors, with the prefixes of their files, to ours, and fold weight normalization.

    Args:
        tensors: official tensors.
        expected: our state dict, of which only names and shapes are used.
        source: for error messages.

    Raises:
        ValueError: A key is missing, left over or of another shape. The message has its official name.
    """
    tensors = fold_weight_norm(tensors)
    num_branches = 1
    for key in expected:
        if ".branches." in key:
            num_branches = max(num_branches, 1 + int(key.split(".")[5]))

    converted = {}
    missing = []
    mismatched = []
    left_over = set(tensors)
    for key, expected_tensor in expected.items():
        if key.startswith("encoder."):
            continue  # WavLM is not in these files
        name = official_name(key, num_branches)
        if name not in tensors:
            missing.append(name)
            continue
        left_over.remove(name)
        shape = tuple(expected_tensor.shape)
        if name.endswith(_POINTWISE_KEY):
            shape = (*shape, 1)
        if tensors[name].shape == shape:
            converted[key] = tensors[name].view(expected_tensor.shape)
        else:
            mismatched.append(f"{name} {tuple(tensors[name].shape)} instead of {shape}")
    check_keys(sorted(missing), sorted(left_over), mismatched, source)
    return converted


def official_name(key: str, num_branches: int) -> str:
    """Convert one of our keys to the official one, with the part as a prefix.

    Args:
        key: of the codec without its encoder.
        num_branches: residual blocks in each stage of the vocoder, which official keys count through.
    """
    part, *rest = key.split(".")
    if key.startswith("dequantizer.layers."):
        inside = _replace_prefix(".".join(rest[2:]), _LAYER_PREFIXES)
        return f"{part}.backbone.encoder.layers.{rest[1]}.{inside}"
    if key.startswith("vocoder.generator.upscales."):
        return f"{part}.ups.{rest[2]}.conv.{rest[3]}"
    if key.startswith("vocoder.generator.fusions."):
        _, _, stage, _, branch, kind, index, name = rest
        block = num_branches * int(stage) + int(branch)
        convs = "convs1" if kind == "dilated" else "convs2"
        return f"{part}.resblocks.{block}.{convs}.{index}.conv.{name}"
    return _replace_prefix(key, _PREFIXES)


def _replace_prefix(key: str, prefixes: Mapping[str, str]) -> str:
    for ours, official in prefixes.items():
        if key.startswith(ours):
            return official + key.removeprefix(ours)
    return key


def find_wavlm(source: str | Path, num_layers: int, width: int, kwargs: dict[str, Any]) -> WavLM | None:
    """Read the WavLM of a codec from the folder wavlm-large inside `source`, or else from the hub.

    Args:
        source: folder or hub id of the codec.
        num_layers: number of layers to read.
        width: D of the codec's features. The WavLM on the hub is 1024 wide.
        kwargs: options of the hub, as in transformers.

    Returns:
        Fields of our `WavLMConfig` without the number of layers, whether waveforms are normalized first, and tensors
        with our keys and the prefix `encoder.`. None if there is no WavLM, which is logged.

    Raises:
        OSError: There are only pickled weights in the folder. They are never loaded.
        ValueError: Damaged weights, or another architecture.
    """
    if find_file(source, f"{_WAVLM_FOLDER}/config.json", kwargs):
        return _read_wavlm(source, f"{_WAVLM_FOLDER}/", num_layers, kwargs)
    try:
        if width != WAVLM_WIDTH:
            raise OSError(f"{source} has no folder {_WAVLM_FOLDER}")
        options = {key: value for key, value in kwargs.items() if key not in _CODEC_OPTIONS}
        return _read_wavlm(WAVLM_HUB_ID, "", num_layers, options)
    except OSError as error:
        logger.warning("%s is loaded without its WavLM and can only decode: %s", source, error)
        return None


def _read_wavlm(source: str | Path, prefix: str, num_layers: int, kwargs: dict[str, Any]) -> WavLM:
    """Read WavLM from files whose names begin with a prefix."""
    config = read_config(source, kwargs, f"{prefix}config.json")
    path = find_file(source, f"{prefix}model.safetensors", kwargs)
    if path is None:
        folder = Path(source if prefix else ".", kwargs.get("subfolder", ""), _WAVLM_FOLDER)
        raise OSError(
            f"{source} has no {prefix}model.safetensors: make a folder {_WAVLM_FOLDER} beside the codec's own files, "
            f"with config.json and pytorch_model.bin of {WAVLM_HUB_ID}. {conversion_advice(folder, {})}"
        )
    fields = convert_wavlm_config(config, num_layers)
    extractor_config = read_config(source, kwargs, f"{prefix}preprocessor_config.json")
    normalize = extractor_config.get("do_normalize", True)
    return fields, normalize, convert_wavlm_state_dict(read_safetensors(path), num_layers)


def convert_wavlm_config(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    """Convert a config of transformers to fields of our `WavLMConfig`, without the number of layers.

    Raises:
        ValueError: There are fewer layers, or the architecture is not that of WavLM-large.
    """
    wavlm = WavLMConfig(**config)
    wrong = []
    for key, value in _WAVLM_OPTIONS.items():
        if getattr(wavlm, key) != value:
            wrong.append(f"{key} is {getattr(wavlm, key)!r}")
    if wrong or wavlm.num_hidden_layers < num_layers:
        raise ValueError(
            f"this WavLM has {wavlm.num_hidden_layers} layers, {wrong}; expected {num_layers} or more, and "
            f"{_WAVLM_OPTIONS}: fetch {WAVLM_HUB_ID}"
        )
    return {
        "hidden_dims": list(wavlm.conv_dim),
        "kernel_sizes": list(wavlm.conv_kernel),
        "strides": list(wavlm.conv_stride),
        "dim": wavlm.hidden_size,
        "ffn_dim": wavlm.intermediate_size,
        "num_heads": wavlm.num_attention_heads,
        "num_buckets": wavlm.num_buckets,
        "max_distance": wavlm.max_bucket_distance,
        "conv_pos": wavlm.num_conv_pos_embeddings,
        "conv_pos_groups": wavlm.num_conv_pos_embedding_groups,
    }


def convert_wavlm_state_dict(tensors: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Convert tensors of transformers to ours with the prefix `encoder.`, of the first layers only.

    Raises:
        ValueError: A query projection without its key or value projection.
    """
    converted = {}
    # The only weight-normalized layer has one magnitude for each position of its kernel.
    for key, tensor in fold_weight_norm(tensors, axis=2).items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", key)
        if key.startswith(_WAVLM_UNUSED_PREFIXES) or (layer and int(layer[1]) >= num_layers):
            continue
        if ".k_proj." in key or ".v_proj." in key:
            continue  # joined with the query's below
        if ".q_proj." in key:
            projections = [key.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
            absent = [name for name in projections if name not in tensors]
            if absent:
                raise ValueError(f"WavLM's weights have {key} but not {absent}: fetch the file again")
            joined = torch.cat([tensors[name] for name in projections])
            converted[_convert_wavlm_key(key.replace(".q_proj.", ".qkv_proj."))] = joined
            continue
        converted[_convert_wavlm_key(key)] = tensor
    return converted


def _convert_wavlm_key(key: str) -> str:
    for pattern, replacement in _WAVLM_KEYS:
        if re.match(pattern, key):
            return "encoder." + re.sub(f"^{pattern}", replacement, key)
    return f"encoder.{key}"
