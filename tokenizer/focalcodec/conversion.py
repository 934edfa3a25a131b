"""Official FocalCodec checkpoints (`lucadellalib/focalcodec_*`): their config.json and both of their key layouts."""

from typing import Any

import torch
from torch import Tensor

# Keys that change neither weights nor results.
_IGNORED: dict[str, set[str]] = {
    "encoder": {"dropout", "max_cached_steps", "use_flex_attention"},
    "compressor": {"dropout"},
    "quantizer": set(),
    "decompressor": {"dropout"},
    "decoder": {"padding"},
}
_NAMES: dict[str, dict[str, str | None]] = {
    "encoder": {"WavLM": "wavlm"},
    "compressor": {"FocalEncoder": None},
    "quantizer": {"BinarySphericalQuantizer": None},
    "decompressor": {"FocalDecoder": None},
    "decoder": {"Vocos": "vocos", "WaveNeXt": "wavenext"},
}
_SPELLINGS = {"input_channels": "input_dim", "downscale_factors": "factors", "upscale_factors": "factors"}


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config.json has the official schema (`encoder_name`, ...) instead of ours (`model_type`)."""
    return "encoder_name" in config


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Official config -> keyword arguments of `FocalCodecConfig`.

    Raises:
        ValueError: a part that is not known, or an option that no released model uses.
    """
    converted = {}
    for part, names in _NAMES.items():
        name = config.get(f"{part}_name")
        if name not in names:
            raise ValueError(f"{part}_name must be one of {list(names)}, found {name!r}")
        values = config.get(f"{part}_config", {})
        if not isinstance(values, dict):
            raise ValueError(f"{part}_config must be an object, found {values!r}")
        if values.get("dropout"):
            raise ValueError(
                f"{part}_config.dropout is {values['dropout']}; only 0, as in the released models, is known"
            )
        values = {_SPELLINGS.get(k, k): v for k, v in values.items() if k not in _IGNORED[part]}
        converted[part] = values if names[name] is None else {"type": names[name], **values}
    return converted


def convert_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the legacy layout (reference 0.0.1, the released non-causal files) -> the current layout, which is ours.

    A file in the current layout comes back as it is.
    """
    if not any(".attention.q_proj." in key for key in tensors):
        return dict(tensors)
    converted = {}
    for key, tensor in tensors.items():
        if key.startswith("encoder.encoder.norm.") or key == "quantizer.mask":
            continue  # the reference never used them
        if ".attention.k_proj." in key or ".attention.v_proj." in key:
            continue  # joined to the query's below
        if ".attention.q_proj." in key:
            parts = [key.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
            absent = [part for part in parts if part not in tensors]
            if absent:
                raise ValueError(f"the checkpoint has {key} but not {absent}: the file is incomplete, fetch it again")
            converted[key.replace(".q_proj.", ".qkv_proj.")] = torch.cat([tensors[part] for part in parts])
            continue
        part, *rest = key.split(".")
        if part in ("compressor", "decompressor") and rest[0] == "layers":
            names = ("downscale", "focal_block") if part == "compressor" else ("focal_block", "upscale")
            rest[2] = names[int(rest[2])]
        converted[".".join([part, *rest])] = tensor
    return converted
