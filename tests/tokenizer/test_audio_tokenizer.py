"""`AudioTokenizer` with a tiny FocalCodec: every kind of input, exact lengths, and ids independent of the batch."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from focallm.tokenizer import (
    AudioTokenizer,
    FocalCodecConfig,
    FocalCodecFeatureExtractor,
    FocalCodecModel,
    read_audio,
    write_audio,
)
from focallm.tokenizer.codecs import auto as loading


def tiny(**changes):
    """A FocalCodec on mel frames with random weights."""
    torch.manual_seed(0)
    focal = {"hidden_dims": [12, 12], "factors": [1, 1], "focal_window": 3, "focal_level": 2, "focal_factor": 2}
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20},
        compressor={"input_dim": 20, "output_dim": 6, **focal},
        quantizer={"codebook_size": 64},
        decompressor={"input_dim": 6, "output_dim": 20, **focal},
        decoder={"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 16, **changes},
    )
    model = FocalCodecModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def tok():
    return AudioTokenizer(tiny())


def noise(samples, seed=0):
    """Noise whose loudness changes every 20 ms, so that the tokens of the random codec differ."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0.001, 0.9, samples // 320 + 1), 320)[:samples]
    return (loudness * random.uniform(-1, 1, samples)).astype(np.float32)


def test_properties(tok):
    assert (tok.vocab_size, tok.codebook_size, tok.num_codebooks) == (64, 64, 1)
    assert (tok.frame_rate, tok.tokens_per_second, tok.bits_per_second) == (50, 50, 300)
    assert (tok.sampling_rate, tok.output_sampling_rate) == (16000, 16000)
    assert tok.to("cpu") is tok
    assert tok.device == torch.device("cpu")


def test_round_trip(tok):
    out = tok(noise(16001))
    assert out["input_ids"].shape == out["attention_mask"].shape == (1, 51)
    assert out["input_ids"].dtype == torch.int64
    assert out["attention_mask"].all()
    assert out["num_samples"].tolist() == [16001]
    assert out["input_ids"].unique().numel() > 5
    audio = tok.decode(out["input_ids"][0], num_samples=16001)
    assert isinstance(audio, np.ndarray)
    assert (audio.dtype, audio.shape) == (np.float32, (16001,))
    assert len(tok.decode(out["input_ids"][0].tolist())) == 51 * 320


def test_every_kind_of_item_gives_the_same_ids(tok, tmp_path):
    wave = np.round(noise(8000) * 32768) / 32768  # values that 16 bits hold exactly
    wave = wave.astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 16000)
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(wave)[None], sample_rate=16000)
    )
    items = [
        wave,
        torch.from_numpy(wave),
        path,
        str(path),
        {"array": wave, "sampling_rate": 16000},
        {"array": wave.tolist(), "sampling_rate": 16000, "path": None},
        {"bytes": path.read_bytes(), "path": "a.wav"},
        {"bytes": None, "path": str(path)},
        decoder,
        np.stack([wave, wave]),
        np.stack([wave, wave], axis=1),
        (wave * 32768).astype(np.int16),
    ]
    expected = tok(wave)["input_ids"][0]
    for item in items:
        assert torch.equal(tok(item)["input_ids"][0], expected)
    batch = tok(items)
    assert batch["input_ids"].shape == (len(items), 25)
    assert (batch["input_ids"] == expected).all()
    assert torch.equal(tok(wave.tolist())["input_ids"][0], expected)


def test_a_column_of_a_dataset(tok, tmp_path):
    from datasets import Audio, Dataset

    paths = [str(tmp_path / f"{i}.wav") for i in range(3)]
    for i, path in enumerate(paths):
        write_audio(path, noise(1000 * (i + 1), seed=i), 8000)
    rows = Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(decode=False))
    out = tok(rows["audio"])
    assert out["num_samples"].tolist() == [2000, 4000, 6000]
    assert torch.equal(tok(rows[1]["audio"])["input_ids"][0], out["input_ids"][1, :13])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_rates(tok, tmp_path, rate):
    wave = noise(rate // 2)
    write_audio(tmp_path / "a.flac", wave, rate)
    read, _ = read_audio(tmp_path / "a.flac")
    from_file, from_array = tok(tmp_path / "a.flac"), tok(read, sampling_rate=rate)
    assert from_file["num_samples"].tolist() == [8000]
    assert torch.equal(from_file["input_ids"], from_array["input_ids"])


def test_mixed_rates_lengths_and_kinds(tok, tmp_path):
    write_audio(tmp_path / "a.wav", noise(22050), 44100)
    items = [noise(4000), tmp_path / "a.wav", {"array": noise(100), "sampling_rate": 16000}]
    out = tok(items, sampling_rate=[8000, 1, 1])  # used for the bare array only
    assert out["num_samples"].tolist() == [8000, 8000, 100]
    assert out["attention_mask"].sum(1).tolist() == [25, 25, 1]
    assert (out["input_ids"][2, 1:] == 0).all()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_ids_and_audio_do_not_depend_on_the_batch(tok, lengths, seed):
    waves = [noise(n, seed + i) for i, n in enumerate(lengths)]
    batch = tok(waves)
    masked = tok.batch_decode(batch["input_ids"], batch["attention_mask"], batch["num_samples"])
    unmasked = tok.batch_decode(batch["input_ids"], num_samples=batch["num_samples"])
    for i, wave in enumerate(waves):
        single = tok(wave)
        ids = batch["input_ids"][i][batch["attention_mask"][i].bool()]
        assert torch.equal(ids, single["input_ids"][0])
        alone = tok.decode(single["input_ids"][0], num_samples=len(wave))
        assert len(masked[i]) == len(unmasked[i]) == len(alone) == len(wave)
        tolerance = 1e-5 * max(1.0, float(np.abs(alone).max()))  # these random weights exceed full scale
        assert np.abs(masked[i] - alone).max() <= tolerance
        assert np.abs(unmasked[i] - alone).max() <= tolerance


def test_more_than_one_batch_keeps_the_order(tok, monkeypatch):
    monkeypatch.setattr("focallm.tokenizer.audio_tokenizer._BATCH_S", 1.0)
    lengths = [8000, 100, 20000, 3000, 8001, 15999]
    out = tok([noise(n, n) for n in lengths])
    assert out["num_samples"].tolist() == lengths
    for i, n in enumerate(lengths):
        assert torch.equal(out["input_ids"][i, : -(-n // 320)], tok(noise(n, n))["input_ids"][0])
    audio = tok.batch_decode(out["input_ids"], num_samples=out["num_samples"])
    assert [len(a) for a in audio] == lengths


def test_long_audio_has_its_exact_length(tok, monkeypatch):
    monkeypatch.setattr("focallm.tokenizer.audio_tokenizer.MAX_WHOLE_S", 30.0)
    samples = 16000 * 130 + 7
    out = tok([noise(samples), noise(500)])
    assert out["attention_mask"].sum(1).tolist() == [6501, 2]
    audio = tok.batch_decode(out["input_ids"], num_samples=out["num_samples"])
    assert [len(a) for a in audio] == [samples, 500]
    assert np.isfinite(audio[0]).all()


def test_other_output_rate(tmp_path):
    tok = AudioTokenizer(tiny(hop_length=480))
    assert tok.output_sampling_rate == 24000
    out = tok(noise(1001))
    assert len(tok.decode(out["input_ids"][0], num_samples=1001)) == 1001 * 24000 // 16000
    assert len(tok.decode(out["input_ids"][0])) == 4 * 480


# Bad input gives the right result or a clear error in one sentence.


def bad_files(folder):
    soundfile.write(folder / "whole.flac", noise(40000), 16000)
    data = (folder / "whole.flac").read_bytes()
    (folder / "half.flac").write_bytes(data[: len(data) // 2])
    (folder / "text.wav").write_text("not audio")
    soundfile.write(folder / "empty.wav", noise(0), 16000)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ([], "at least one item"),
        (np.zeros(0, np.float32), "empty"),
        (np.float32([0, np.nan, 0]), "NaN or infinite"),
        (np.float32([0, np.inf, 0]), "NaN or infinite"),
        (np.zeros((4, 1, 100), np.float32), "batch as a list"),
        (np.zeros((16, 100), np.float32), "batch as a list"),
        (np.zeros(10, np.int64), "int64"),
        ([np.zeros(10, np.float32), np.zeros(0, np.float32)], "item 1: .*empty"),
        ("missing.wav", "there is no audio file"),
        ("", "is a folder"),
        ("text.wav", "not audio that can be read"),
        ("half.flac", "truncated or damaged"),
        ("empty.wav", "empty"),
        ({"path": "half.flac"}, "truncated or damaged"),
        ({"bytes": b"garbage", "path": None}, "not audio that can be read"),
        ({"wav": np.zeros(3)}, "needs 'array', 'bytes' or 'path'"),
        (["whole.flac", "half.flac"], "item 1: .*truncated or damaged"),
    ],
)
def test_bad_audio_is_reported_in_one_sentence(tok, tmp_path, monkeypatch, audio, words):
    bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=words) as caught:
        tok(audio)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wave",
    [
        noise(1),
        (noise(999) * 127 + 128).astype(np.uint8),
        (noise(999) * 32767).astype(np.int16),
        (noise(999).astype(np.float64) * 2**31).astype(np.int32),
        noise(2 * 999).reshape(2, 999),
        noise(2 * 999).reshape(999, 2),
        noise(999) * 10,  # beyond full scale
        np.zeros(999, np.float32),
    ],
)
def test_unusual_audio_gives_tokens(tok, wave):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = tok(wave)
    samples = max(wave.shape)
    assert out["num_samples"].tolist() == [samples]
    assert tok.decode(out["input_ids"][0], num_samples=samples).shape == (samples,)


@pytest.mark.parametrize(
    ("ids", "options", "words"),
    [
        ([1, 64], {}, r"ids must lie in 0 ... 63, found 64 in item 0: subtract"),
        ([1, -1], {}, "found -1"),
        ([], {}, "holds 0 ids"),
        ([0.5], {}, "integers"),
        ([1, 2], {"num_samples": 0}, "at least 1"),
        (3, {}, r"must be \(L,\)"),
    ],
)
def test_bad_ids_are_reported_in_one_sentence(tok, ids, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        tok.decode(ids, **options)
    assert "\n" not in str(caught.value)


# Folders.


def test_saves_and_loads(tok, tmp_path):
    tok.save_pretrained(tmp_path / "codec")
    assert sorted(path.name for path in (tmp_path / "codec").iterdir() if path.suffix != ".py") == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    again = AudioTokenizer.from_pretrained(tmp_path / "codec")
    wave = noise(5000)
    assert torch.equal(again(wave)["input_ids"], tok(wave)["input_ids"])
    again.save_pretrained(tmp_path / "codec")  # overwrites the folder it was loaded from
    assert torch.equal(
        AudioTokenizer.from_pretrained(str(tmp_path / "codec"))(wave)["input_ids"], tok(wave)["input_ids"]
    )
    with pytest.raises(ValueError, match="one codebook"):
        AudioTokenizer.from_pretrained(tmp_path / "codec", num_codebooks=2)
    with pytest.raises(NotADirectoryError, match="is a file"):
        tok.save_pretrained(tmp_path / "codec" / "config.json")


def test_the_auto_classes_open_the_folder(tok, tmp_path):
    tok.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FocalCodecConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), FocalCodecModel)
    model = AutoModelForAudioTokenization.from_pretrained(tmp_path)
    assert isinstance(model, FocalCodecModel)
    for auto in (AutoFeatureExtractor, AutoProcessor):
        processor = auto.from_pretrained(tmp_path)
        assert isinstance(processor, FocalCodecFeatureExtractor)
        wave = noise(5000)
        out = model.encode(**processor(wave, sampling_rate=16000, return_tensors="pt"))
        assert torch.equal(out.audio_codes[:, 0], tok(wave)["input_ids"])


def test_mini_is_the_folder_in_the_package(tok, tmp_path, monkeypatch):
    monkeypatch.setitem(loading.BUNDLED, "mini", tmp_path / "mini")
    with pytest.raises(OSError, match="no bundled weights"):
        AudioTokenizer.from_pretrained()
    tok.save_pretrained(tmp_path / "mini")
    wave = noise(3000)
    mini = AudioTokenizer.from_pretrained("mini")
    assert torch.equal(mini(wave)["input_ids"], tok(wave)["input_ids"])
    assert mini.codec.name_or_path == "mini"  # a token store must not remember where the package was installed


def test_bad_folders_are_reported_in_one_sentence(tmp_path):
    with pytest.raises(OSError, match=r"config\.json"):
        AudioTokenizer.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="there is no codec"):
        AudioTokenizer.from_pretrained(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "encodec"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(OSError, match="safetensors"):
        AudioTokenizer.from_pretrained(tmp_path)


def test_push_to_hub_uploads_the_saved_folder(tok, monkeypatch):
    calls = []

    class FakeApi:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo, private, exist_ok):
            calls.append(("create", repo, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            assert AudioTokenizer.from_pretrained(folder_path).vocab_size == 64
            calls.append(("upload", repo_id, commit_message))
            return "https://hub/commit"

    monkeypatch.setattr("focallm.tokenizer.hub.HfApi", FakeApi)
    address = tok.push_to_hub("me/codec", token="t", private=True, commit_message="first")
    assert address == "https://hub/commit"
    assert calls == [("token", "t"), ("create", "me/codec", True, True), ("upload", "me/codec", "first")]


@pytest.mark.parametrize("name", ["tiny_50hz", "tiny_12_5hz", "tiny_50hz_causal"])
def test_opens_the_official_layout_and_saves_in_ours(name, tmp_path):
    tok = AudioTokenizer.from_pretrained(Path(__file__).parents[1] / "fixtures" / "focalcodec" / name)
    wave = noise(20001)
    out = tok(wave)
    audio = tok.decode(out["input_ids"][0], num_samples=20001)
    assert len(audio) == 20001 * tok.output_sampling_rate // 16000
    tok.save_pretrained(tmp_path)
    again = AudioTokenizer.from_pretrained(tmp_path)
    assert torch.equal(again(wave)["input_ids"], out["input_ids"])
    assert np.array_equal(again.decode(out["input_ids"][0], num_samples=20001), audio)


def test_the_repr_describes_the_codec(tiny_codec):
    assert repr(AudioTokenizer.from_pretrained("mini")) == (
        "AudioTokenizer(FocalCodecModel 'mini': 16000 Hz -> 16000 Hz, 50 frames/s, 1 codebook of 8192 codes, 650 bit/s)"
    )
    assert repr(AudioTokenizer(tiny_codec("dac", 3))).endswith("3 codebooks of 32 codes, 750 bit/s)")


def test_ids_come_as_tensors_arrays_or_lists_and_can_be_padded(tok):
    waves = [noise(3000), noise(9000)]
    tensors = tok(waves)
    arrays = tok(waves, return_tensors="np")
    lists = tok(waves, return_tensors=None)
    assert len(tok) == tok.vocab_size
    for key, value in tensors.items():
        assert isinstance(arrays[key], np.ndarray)
        assert np.array_equal(arrays[key], value.numpy())
    assert [len(ids) for ids in lists["input_ids"]] == tensors["attention_mask"].sum(1).tolist()
    items = [{"input_ids": ids} for ids in lists["input_ids"]]
    for encodings in (lists, items):
        padded = tok.pad(encodings)
        assert torch.equal(padded["input_ids"], tensors["input_ids"])
        assert torch.equal(padded["attention_mask"], tensors["attention_mask"])
    assert set(tensors["input_ids"][tensors["attention_mask"] == 0].tolist()) == {tok.pad_token_id}
    with pytest.raises(ValueError, match="return_tensors must be"):
        tok(waves, return_tensors="tf")
    with pytest.raises(ValueError, match="pad needs input_ids"):
        tok.pad([])


def test_a_card_is_written_beside_a_codec_once(tok, tmp_path):
    tok.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| bits | " in card
    assert "AudioTokenizer.from_pretrained" in card
    (tmp_path / "README.md").write_text("mine")
    tok.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
