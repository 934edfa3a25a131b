"""Keys and shapes of all six released configurations in both layouts, without any weights."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel
from focallm.tokenizer.focalcodec.checkpoint import convert_config, convert_state_dict

# {checkpoint: {"current" | "legacy": {key: shape}}}, recorded from the published code.
RECORDED = Path(__file__).parent.parent / "fixtures" / "focalcodec" / "state_dicts.json.gz"
PARAMETERS = {
    "focalcodec_50hz": 142_126_257,
    "focalcodec_25hz": 144_223_409,
    "focalcodec_12_5hz": 145_271_985,
    "focalcodec_50hz_2k_causal": 249_036_441,
    "focalcodec_50hz_4k_causal": 249_038_490,
    "focalcodec_50hz_65k_causal": 249_046_686,
}
WAVLM = {
    "hidden_dims": [512] * 7,
    "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
    "strides": [5, 2, 2, 2, 2, 2, 2],
    "num_layers": 6,
    "dim": 1024,
    "ffn_dim": 4096,
    "num_heads": 16,
    "num_buckets": 320,
    "max_distance": 800,
    "dropout": 0.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
}
FLAGS = {"dropout": 0.0, "use_post_norm": False, "use_layerscale": False, "layerscale_init": 1e-4}
FLAGS |= {"normalize_modulator": False}


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_and_shapes_of_the_released_checkpoint(name: str) -> None:
    expected = _recorded()[name]["current"]
    with torch.device("meta"):
        model = FocalCodecModel(FocalCodecConfig(**convert_config(official_config(name))))
    found = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert found == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert not any("parametrizations" in key or "weight_g" in key for key in found)


@pytest.mark.parametrize("name", list(PARAMETERS)[:3])
def test_the_legacy_layout_converts_to_the_current_one(name: str) -> None:
    recorded = _recorded()[name]
    converted = convert_state_dict(_meta(recorded["legacy"]))
    assert {key: list(value.shape) for key, value in converted.items()} == recorded["current"]


def test_the_current_layout_is_not_changed() -> None:
    tensors = _meta(_recorded()["focalcodec_25hz"]["current"])
    converted = convert_state_dict(tensors)
    assert converted == tensors
    assert converted is not tensors


def test_a_legacy_file_that_lacks_a_projection() -> None:
    tensors = _meta(_recorded()["focalcodec_50hz"]["legacy"])
    del tensors["encoder.encoder.layers.2.attention.v_proj.bias"]
    with pytest.raises(ValueError, match=r"layers\.2\.attention\.v_proj\.bias"):
        convert_state_dict(tensors)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoder_name": "HiFiGAN"}, "decoder_name"),
        ({"encoder_config": WAVLM | {"dropout": 0.1}}, "encoder_config.dropout"),
        ({"compressor_config": {}}, "compressor: unknown keys .*missing keys .*focal_window"),
        ({"quantizer_config": {}}, "codebook_size"),
        ({"encoder_config": WAVLM | {"relative": True}}, "relative"),
    ],
)
def test_unsupported_official_configs(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FocalCodecConfig(**convert_config(official_config("focalcodec_50hz") | change))


@pytest.mark.parametrize("key", ["focal_window", "focal_level", "focal_factor", "hidden_dims"])
def test_a_missing_key_gets_no_default(key: str) -> None:
    config = official_config("focalcodec_50hz")
    del config["compressor_config"][key]
    with pytest.raises(ValueError, match=rf"compressor.*missing keys \['{key}'\]"):
        FocalCodecConfig(**convert_config(config))


def official_config(name: str) -> dict[str, Any]:
    """config.json of a released checkpoint, in the schema of the published code."""
    if name.endswith("_causal"):
        bits = {"2k": 11, "4k": 12, "65k": 16}[name.split("_")[-2]]
        focal = FLAGS | {"focal_window": 14, "focal_level": 2, "focal_factor": 4, "tanhscale_init": 0.5}
        focal |= {"causal": True, "window_size": 512, "hidden_dims": [1024] * 3}
        wavlm = WAVLM | {"causal": True, "window_size": 512, "lookahead_size": 3, "max_cached_steps": 2048}
        down, up = {**focal, "downscale_factors": [1] * 3}, {**focal, "upscale_factors": [1] * 3}
        up |= {"last_window_size": 512, "lookahead_size": 3}
        decoder = "WaveNeXt", {"input_dim": 1024, "num_layers": 8, "dim": 1024, "ffn_dim": 2048, "kernel_size": 7}
        decoder[1].update(layerscale_init=None, hop_length=480, causal=True)
        wavlm["use_flex_attention"] = False
    else:
        bits, focal = 13, FLAGS | {"focal_window": 7, "focal_level": 2, "focal_factor": 2}
        factors = {"50hz": [1, 1, 1], "25hz": [2, 1, 1], "12_5hz": [2, 2, 1]}[name.removeprefix("focalcodec_")]
        wavlm = WAVLM
        down = focal | {"hidden_dims": [1024, 512, 256], "downscale_factors": factors}
        up = focal | {"hidden_dims": [256, 512, 1024], "upscale_factors": factors[::-1]}
        decoder = "Vocos", {"input_channels": 1024, "num_layers": 8, "dim": 512, "ffn_dim": 1536, "kernel_size": 7}
        decoder[1].update(padding=3, layerscale_init=None, n_fft=1024, hop_length=320)
    return {
        "encoder_name": "WavLM",
        "encoder_config": wavlm,
        "compressor_name": "FocalEncoder",
        "compressor_config": {"input_dim": 1024, "output_dim": bits, **down},
        "quantizer_name": "BinarySphericalQuantizer",
        "quantizer_config": {"codebook_size": 2**bits},
        "decompressor_name": "FocalDecoder",
        "decompressor_config": {"input_dim": bits, "output_dim": 1024, **up},
        "decoder_name": decoder[0],
        "decoder_config": decoder[1],
    }


def _recorded() -> dict[str, dict[str, dict[str, list[int]]]]:
    return json.loads(gzip.decompress(RECORDED.read_bytes()))


def _meta(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
