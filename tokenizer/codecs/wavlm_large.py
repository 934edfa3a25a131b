"""WavLM-large of transformers (`microsoft/wavlm-large`) as the `WavLMEncoder` here: its first layers.

B batch, D width.
"""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WavLMConfig

from ..focalcodec.checkpoint import read_safetensors
from .official import conversion_advice, find_file, fold_weight_norm, read_config

logger = logging.getLogger(__name__)

_HUB_ID, _WIDTH = "microsoft/wavlm-large", 1024
_FOLDER = "wavlm-large"  # beside a codec's own files
_OF_THE_CODEC = ("revision", "subfolder")  # what says where in a repository the codec is, not WavLM
_FIXED = {
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": False,
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
}
# transformers' names -> ours; the first that fits counts.
_NAMES = (
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
_UNUSED = ("masked_spec_embed", "encoder.layer_norm.")  # for training, and after the last layer

WavLM = tuple[dict[str, Any], bool, dict[str, Tensor]]


def find_wavlm(source: str | Path, num_layers: int, width: int, kwargs: dict[str, Any]) -> WavLM | None:
    """The WavLM that belongs to a codec: in the folder wavlm-large inside `source`, or else on the hub.

    Args:
        source: folder or hub id of the codec.
        num_layers: how many layers are wanted.
        width: D of the codec's features; the hub has only what is 1024 wide.
        kwargs: of the hub, as in transformers.

    Returns:
        Fields of our `WavLMConfig` without the number of layers, whether waveforms are normalised first, and tensors
        in our spelling with the prefix `encoder.`; or None where there is no WavLM, which is logged.

    Raises:
        OSError: pickled weights in the folder; they are never loaded.
        ValueError: damaged weights, or another architecture.
    """
    if find_file(source, f"{_FOLDER}/config.json", kwargs):
        return _read(source, f"{_FOLDER}/", num_layers, kwargs)
    try:
        if width != _WIDTH:
            raise OSError(f"{source} has no folder {_FOLDER}")
        return _read(_HUB_ID, "", num_layers, {key: v for key, v in kwargs.items() if key not in _OF_THE_CODEC})
    except OSError as error:
        logger.warning("%s is loaded without its WavLM and can only decode: %s", source, error)
        return None


def _read(source: str | Path, folder: str, num_layers: int, kwargs: dict[str, Any]) -> WavLM:
    config = read_config(source, kwargs, f"{folder}config.json")
    path = find_file(source, f"{folder}model.safetensors", kwargs)
    if path is None:
        where = Path(source if folder else ".", kwargs.get("subfolder", ""), _FOLDER)
        raise OSError(
            f"{source} has no {folder}model.safetensors: make a folder {_FOLDER} beside the codec's own files, of "
            f"config.json and pytorch_model.bin of {_HUB_ID}. {conversion_advice(where, {})}"
        )
    fields = convert_config(config, num_layers)
    normalize = read_config(source, kwargs, f"{folder}preprocessor_config.json").get("do_normalize", True)
    return fields, normalize, convert_state_dict(read_safetensors(path), num_layers)


def convert_config(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    """transformers' config -> fields of our `WavLMConfig` without the number of layers.

    Raises:
        ValueError: fewer layers than that, or an architecture other than WavLM-large's.
    """
    theirs = WavLMConfig(**config)
    wrong = [f"{key} is {found!r}" for key, value in _FIXED.items() if (found := getattr(theirs, key)) != value]
    if wrong or theirs.num_hidden_layers < num_layers:
        raise ValueError(
            f"this WavLM has {theirs.num_hidden_layers} layers, {wrong}; expected {num_layers} or more, and {_FIXED}: "
            f"fetch {_HUB_ID}"
        )
    return {
        "hidden_dims": list(theirs.conv_dim),
        "kernel_sizes": list(theirs.conv_kernel),
        "strides": list(theirs.conv_stride),
        "dim": theirs.hidden_size,
        "ffn_dim": theirs.intermediate_size,
        "num_heads": theirs.num_attention_heads,
        "num_buckets": theirs.num_buckets,
        "max_distance": theirs.max_bucket_distance,
        "conv_pos": theirs.num_conv_pos_embeddings,
        "conv_pos_groups": theirs.num_conv_pos_embedding_groups,
    }


def convert_state_dict(tensors: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """transformers' tensors -> ours with the prefix `encoder.`: the first layers, query, key and value in one.

    Raises:
        ValueError: a part of a weight without the others.
    """
    converted = {}
    # The only weight-normalised layer has one magnitude for each place of its kernel.
    for key, tensor in fold_weight_norm(tensors, axis=2).items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", key)
        if key.startswith(_UNUSED) or (layer and int(layer[1]) >= num_layers) or re.search(r"\.[kv]_proj\.", key):
            continue
        if ".q_proj." in key:
            parts = [key.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
            absent = [part for part in parts if part not in tensors]
            if absent:
                raise ValueError(f"WavLM's weights have {key} but not {absent}: fetch the file again")
            key, tensor = key.replace(".q_proj.", ".qkv_proj."), torch.cat([tensors[part] for part in parts])
        pattern, name = next((pair for pair in _NAMES if re.match(pair[0], key)), ("", ""))
        converted["encoder." + re.sub(f"^{pattern}", name, key)] = tensor
    return converted
