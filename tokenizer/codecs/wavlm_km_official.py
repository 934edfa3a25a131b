"""The published files of WavLM-KM: which there are, what their keys are called, and what a config says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..focalcodec.checkpoint import check_keys, read_safetensors
from .official import find_file, fold_weight_norm

_PARTS = ("quantizer", "dequantizer", "vocoder")  # a file each
_PUBLISHED = ((6,), (1, 3, 6))  # WavLM layers of the published models
# Official name -> ours, of a config.json; the published models, which have none, are our defaults.
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
# Our names -> official ones, of keys; those that are missing here are the same.
_NAMES = {
    "dequantizer.in_proj.": "dequantizer.backbone.custom_src_module.layers.0.w.",
    "dequantizer.positions": "dequantizer.backbone.positional_encoding.pe",
    "dequantizer.norm.": "dequantizer.backbone.encoder.norm.norm.",
    "vocoder.generator.in_conv.": "vocoder.conv_pre.conv.",
    "vocoder.generator.out_conv.": "vocoder.conv_post.conv.",
}
_LAYER_NAMES = {
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
_POINTWISE = "convolution_module.bottleneck.0.weight"  # a convolution of one frame there, a linear layer here


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config names the constants of the reference."""
    return {"layer_ids", "num_clusters", "conformer_kernel_size"} <= config.keys()


def published_layers(source: str | Path, num_codebooks: int | None, kwargs: dict[str, Any]) -> tuple[int, ...] | None:
    """The WavLM layers of the published model in a folder or hub id without config.json; None if there is none.

    Where there are several, layer 6 alone goes first, and `num_codebooks` decides.
    """
    for layers in _PUBLISHED:
        if num_codebooks in (None, len(layers)) and find_file(source, _file_name("quantizer", layers), kwargs):
            return layers
    return None


def read_tensors(source: str | Path, layer_ids: Sequence[int], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of the three files, each with the file's part as its prefix, or those of model.safetensors.

    Raises:
        OSError: a file is missing.
        ValueError: a damaged file.
    """
    paths = {part: find_file(source, _file_name(part, layer_ids), kwargs) for part in _PARTS}
    absent = [_file_name(part, layer_ids) for part, path in paths.items() if path is None]
    whole = find_file(source, "model.safetensors", kwargs)
    if len(absent) == len(_PARTS) and whole is not None:
        return read_safetensors(whole)
    if absent:
        raise OSError(f"{source} lacks {absent} of a WavLM-KM: fetch them from lucadellalib/discrete-wavlm-codec")
    files = {part: read_safetensors(path) for part, path in paths.items() if path is not None}
    return {f"{part}.{key}": tensor for part, tensors in files.items() for key, tensor in tensors.items()}


def _file_name(part: str, layer_ids: Sequence[int]) -> str:
    return f"{part}_{'-'.join(map(str, layer_ids))}.safetensors"


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Constants of the reference -> keyword arguments of `WavLMKMConfig`; nothing of nothing.

    Raises:
        ValueError: a missing field, or a variant that is not known here.
    """
    if not config:
        return {}
    dilations = config.get("resblock_dilation_sizes", [[1, 3, 5]])
    fixed = {
        "resblock_type": "1",
        "causal": False,
        "upsample_kernel_sizes": [2 * factor for factor in config.get("upsample_factors", [])],
        "resblock_dilation_sizes": [dilations[0]] * len(dilations),
    }
    absent = [key for key in _FIELDS if key not in config]
    wrong = [f"{key} is {config[key]!r}" for key, value in fixed.items() if config.get(key, value) != value]
    if absent or wrong:
        raise ValueError(f"this WavLM-KM is not known here: its config.json lacks {absent}, {wrong}; expected {fixed}")
    return {ours: config[key] for key, ours in _FIELDS.items()} | {"vocoder_dilations": dilations[0]}


def convert_state_dict(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Official tensors with the prefixes of their files -> ours, with weight normalisation folded.

    Args:
        tensors: in either spelling of weight normalisation.
        expected: our state dict, of which the names and shapes count.
        source: for messages.

    Raises:
        ValueError: a key, by its official name, is missing, left over or of another shape.
    """
    tensors = fold_weight_norm(tensors)
    branches = 1 + max((int(key.split(".")[5]) for key in expected if ".branches." in key), default=0)
    names = {official_name(key, branches): key for key in expected if not key.startswith("encoder.")}
    shapes = {name: tuple(expected[key].shape) + (1,) * name.endswith(_POINTWISE) for name, key in names.items()}
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    missing, left_over = sorted(names.keys() - tensors.keys()), sorted(tensors.keys() - names.keys())
    check_keys(missing, left_over, wrong, source)
    return {key: tensors[name].view(expected[key].shape) for name, key in names.items()}


def official_name(key: str, branches: int) -> str:
    """Our name of a tensor -> the official one behind its file's part; `branches` of each of the vocoder's stages."""
    part, *rest = key.split(".")
    if key.startswith("dequantizer.layers."):
        inside = _replace_start(".".join(rest[2:]), _LAYER_NAMES)
        return f"{part}.backbone.encoder.layers.{rest[1]}.{inside}"
    if key.startswith("vocoder.generator.upscales."):
        return f"{part}.ups.{rest[2]}.conv.{rest[3]}"
    if key.startswith("vocoder.generator.fusions."):
        _, _, stage, _, branch, kind, index, name = rest
        block = branches * int(stage) + int(branch)
        return f"{part}.resblocks.{block}.{'convs1' if kind == 'dilated' else 'convs2'}.{index}.conv.{name}"
    return _replace_start(key, _NAMES)


def _replace_start(key: str, names: dict[str, str]) -> str:
    return next((name + key.removeprefix(ours) for ours, name in names.items() if key.startswith(ours)), key)
