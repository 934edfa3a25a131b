"""Checkpoints in our layout and in the official one can be saved and loaded, and damaged ones are refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor
from transformers import AutoConfig

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel

KINDS = ["tiny_50hz", "tiny_25hz", "tiny_12_5hz", "mel", "tiny_50hz_causal"]
LAYOUTS = ["ours", "official", "legacy"]


@pytest.fixture
def checkpoint(tmp_path: Path, fixtures: Path, codec) -> Callable[[str], Path]:
    """`checkpoint(layout)`: a folder with the 25 Hz model, to be damaged."""

    def make(layout: str) -> Path:
        folder = tmp_path / layout
        if layout == "ours":
            codec("tiny_25hz").save_pretrained(folder)
        else:
            folder.mkdir()
            weights = "model.safetensors" if layout == "official" else "model_legacy.safetensors"
            shutil.copy(fixtures / "tiny_25hz" / "config.json", folder)
            shutil.copy(fixtures / "tiny_25hz" / weights, folder / "model.safetensors")
        return folder

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_again(codec, tmp_path: Path, kind: str) -> None:
    model = codec(kind)
    model.save_pretrained(tmp_path)
    loaded = FocalCodecModel.from_pretrained(tmp_path)
    assert not loaded.training
    # Where transformers finds the code, which `save_pretrained` copies into the folder.
    assert loaded.config.auto_map.pop("AutoModel").endswith(".FocalCodecModel")
    del loaded.config.auto_map
    assert _plain(loaded.config) == _plain(model.config)
    # Models are built on the meta device, so values that are neither saved nor recomputed would be garbage now.
    expected, found = dict(model.named_parameters()), dict(loaded.named_parameters())
    expected |= dict(model.named_buffers())
    found |= dict(loaded.named_buffers())
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    for module in loaded.modules():
        assert not any(value.is_meta for value in vars(module).values() if isinstance(value, Tensor))
    waveform = 0.3 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(waveform).audio_codes, model(waveform).audio_codes)
    assert torch.equal(loaded(waveform).audio_values, model(waveform).audio_values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_hold_the_same_model(codec, checkpoint, layout: str) -> None:
    model, info = FocalCodecModel.from_pretrained(str(checkpoint(layout)), output_loading_info=True)
    assert not info["missing_keys"]
    expected = codec("tiny_25hz").state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert model.name_or_path.endswith(layout)


def test_an_official_config_with_another_file_name(checkpoint) -> None:
    folder = checkpoint("official")
    (folder / "config.json").rename(folder / "LibriTTS960_25Hz.json")
    (folder / "model.safetensors").rename(folder / "LibriTTS960_25Hz.safetensors")
    assert FocalCodecModel.from_pretrained(folder / "LibriTTS960_25Hz.json").config.frame_rate == 25


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes(codec, checkpoint, layout: str) -> None:
    folder = checkpoint(layout)
    tensors = _read(folder)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    assert FocalCodecModel.from_pretrained(folder).dtype == torch.float32  # tokens are signs of small numbers
    for given, expected in ((torch.bfloat16, torch.bfloat16), ("float16", torch.float16)):
        model = FocalCodecModel.from_pretrained(folder, dtype=given)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_no_weight_norm_anywhere(codec) -> None:
    for kind in KINDS:
        model = codec(kind)
        assert not any(torch.nn.utils.parametrize.is_parametrized(module) for module in model.modules())
        assert not any(
            "parametrizations" in key or key.endswith(("weight_g", "weight_v")) for key in model.state_dict()
        )


def _drop_key(tensors: dict[str, Tensor]) -> None:
    del tensors["compressor.out_proj.weight"]


def _add_key(tensors: dict[str, Tensor]) -> None:
    tensors["decoder.head.extra"] = torch.zeros(3)


def _reshape_key(tensors: dict[str, Tensor]) -> None:
    tensors["decoder.head.proj.bias"] = torch.zeros(7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_key, r"1 keys missing: \['compressor.out_proj.weight'\]"),
        (_add_key, r"1 keys left over: \['decoder.head.extra'\]"),
        (_reshape_key, r"decoder.head.proj.bias \(7,\) instead of \(1026,\)"),
    ],
)
def test_keys_that_do_not_fit(checkpoint, monkeypatch, layout: str, spoil: Callable, message: str) -> None:
    folder = checkpoint(layout)
    tensors = _read(folder)
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(logging.getLogger("transformers.modeling_utils"), "handlers", [handler])
    _refuses(folder, ValueError, message)
    assert not records  # there is one sentence and no table of keys


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_are_not_safetensors(checkpoint, layout: str) -> None:
    folder = checkpoint(layout)
    weights = folder / "model.safetensors"
    whole, tensors = weights.read_bytes(), _read(folder)
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"not weights at all"):
        weights.write_bytes(content)
        _refuses(folder, ValueError, "cannot be read as one .*damaged")
    torch.save(tensors, weights)
    _refuses(folder, ValueError, "renamed pickle, which is never loaded")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_pickles_are_never_loaded(checkpoint, layout: str, name: str) -> None:
    folder = checkpoint(layout)
    torch.save(_read(folder), folder / name)
    (folder / "model.safetensors").unlink()
    _refuses(folder, OSError, rf"only pickled weights \({name}\), which are never loaded: model.safetensors is needed")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_files(checkpoint, tmp_path: Path, layout: str) -> None:
    folder = checkpoint(layout)
    (folder / "model.safetensors").unlink()
    _refuses(folder, OSError, "no weights: model.safetensors is needed")
    (folder / "config.json").unlink()
    _refuses(folder, OSError, r"has no config.json; it holds \[")
    _refuses(tmp_path / "nowhere", OSError, "is not a folder with a checkpoint, and cannot be a hub id")


@pytest.mark.parametrize("content", ["{", "", "\x00\x01", '"text"', "[1]", "5"])
def test_a_config_that_is_not_a_json_object(checkpoint, content: str) -> None:
    folder = checkpoint("ours")
    (folder / "config.json").write_text(content)
    _refuses(folder, ValueError, "config.json (is not JSON|must hold a JSON object).*fetch (it|the file) again")


def test_a_config_of_another_model(checkpoint) -> None:
    folder = checkpoint("ours")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    _refuses(folder, ValueError, "does not describe a FocalCodec: it lacks .*its model_type is 'llama'")


@pytest.mark.parametrize("layout", ["ours", "official"])
@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("compressor", "focal_windows", 7, r"compressor: unknown keys \['focal_windows'\]"),
        ("compressor", "focal_window", None, r"compressor: unknown keys \[\], missing keys \['focal_window'\]"),
        ("encoder", "dim", 64, "encoder.dim is 64 but compressor.input_dim is 32"),
        ("encoder", "dim", "32", "encoder.dim must be int, found '32'"),
        ("encoder", "strides", [5, 2], "one entry per convolution, found 7, 7 and 2"),
        ("quantizer", "codebook_size", 1024, "compressor.output_dim is 13 but log2 of quantizer.codebook_size is 10"),
        ("quantizer", "codebook_size", 5000, "power of two"),
        ("encoder", "causal", True, "encoder.causal is True but compressor.causal is False"),
        ("decoder", "causal", True, "no causal form"),
    ],
)
def test_invalid_configs(checkpoint, layout: str, part: str, key: str, value: object, message: str) -> None:
    folder = checkpoint(layout)
    config = json.loads((folder / "config.json").read_text())
    values = config[part if layout == "ours" else f"{part}_config"]
    values[key] = value
    if value is None:
        del values[key]
    (folder / "config.json").write_text(json.dumps(config))
    _refuses(folder, ValueError, message)


def test_a_missing_part_gets_no_default(checkpoint) -> None:
    for layout, name in (("ours", "compressor"), ("official", "compressor_config")):
        folder = checkpoint(layout)
        config = json.loads((folder / "config.json").read_text())
        del config[name]
        (folder / "config.json").write_text(json.dumps(config))
        _refuses(folder, ValueError, "compressor")


def test_a_config_survives_json(codec, tmp_path: Path) -> None:
    for kind in KINDS:
        config = codec(kind).config
        config.save_pretrained(tmp_path / kind)
        for again in (FocalCodecConfig.from_pretrained(tmp_path / kind), AutoConfig.from_pretrained(tmp_path / kind)):
            assert isinstance(again, FocalCodecConfig)
            assert again.encoder_config == config.encoder_config
            assert (again.frame_rate, again.output_sampling_rate) == (config.frame_rate, config.output_sampling_rate)
            assert _plain(again) == _plain(config)


def test_the_default_config_is_a_copy() -> None:
    FocalCodecConfig().encoder["dim"] = 7
    assert FocalCodecConfig().encoder_config.dim == 1024


def _read(folder: Path) -> dict[str, Tensor]:
    return load((folder / "model.safetensors").read_bytes())  # load_file would map a file that is written again below


def _plain(config: FocalCodecConfig) -> dict[str, object]:
    return json.loads(config.to_json_string(use_diff=False)) | {"_name_or_path": ""}


def _refuses(folder: Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        FocalCodecModel.from_pretrained(folder)
    assert len(str(caught.value)) < 1000
    assert caught.value.__cause__ is None
    assert caught.traceback[-1].path.parent.name in ("tokenizer", "focalcodec")  # raised by us, not inside torch
