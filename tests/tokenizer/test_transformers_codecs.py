"""Adapters of codecs in transformers, with tiny random weights: one interface, exact lengths, batch equals single."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.transformers_codecs import EncodecCodec

CODECS = {"encodec": (2, 4), "dac": (4, 4), "mimi": (4, 4)}  # codebooks by default, and at most


@pytest.fixture(params=CODECS, scope="module")
def codec(request, tiny_codec):
    return tiny_codec(request.param)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.mark.parametrize("samples", [1, 7, 1919, 1920, 1921, 12345])
def test_counts_and_lengths(codec, samples):
    out = codec.encode(noise(1, 1, samples))
    assert out.audio_codes.shape == (1, codec.config.num_quantizers, int(codec.num_tokens(samples)))
    assert out.audio_codes.dtype == torch.int64
    assert out.audio_codes_mask.all()
    decoded = codec.decode(out.audio_codes, num_samples=samples).audio_values
    assert decoded.shape == (1, 1, samples)
    whole = codec.decode(out.audio_codes).audio_values
    assert whole.shape[-1] == out.audio_codes.shape[-1] * codec.config.samples_per_token


def test_a_batch_gives_what_single_items_give(codec):
    lengths = [5000, 1, 2321]
    wave = noise(3, 1, 5000)
    mask = torch.arange(5000) < torch.tensor(lengths)[:, None]
    out = codec.encode(wave, mask)
    decoded = codec.decode(out.audio_codes, out.audio_codes_mask, lengths)
    assert decoded.padding_mask.sum(1).tolist() == lengths
    for i, length in enumerate(lengths):
        single = codec.encode(wave[i : i + 1, :, :length])
        codes = out.audio_codes[i][:, out.audio_codes_mask[i]]
        assert torch.equal(codes, single.audio_codes[0])
        alone = codec.decode(single.audio_codes, num_samples=length).audio_values
        assert torch.equal(decoded.audio_values[i, 0, :length], alone[0, 0])


def test_equals_transformers(codec):
    wave = noise(1, 1, 9600)
    model = codec.model
    if isinstance(codec, EncodecCodec):
        expected = model.encode(wave).audio_codes[0]  # the lowest bandwidth
    else:
        expected = model.encode(wave).audio_codes
    assert torch.equal(codec.encode(wave).audio_codes, expected)
    assert expected.unique().numel() > 1  # the random weights do tell frames apart


@pytest.mark.parametrize("name", CODECS)
def test_save_and_load_through_the_audio_tokenizer(name, tiny_codec, tmp_path):
    tok = AudioTokenizer(tiny_codec(name, num_codebooks=3))
    assert tok.vocab_size == 3 * tok.codebook_size
    assert tok.tokens_per_second == 3 * tok.frame_rate
    tok.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == tok.sampling_rate
    AutoModel.from_pretrained(tmp_path)  # plain transformers opens it
    again = AudioTokenizer.from_pretrained(tmp_path)
    assert again.num_codebooks == 3
    wave = noise(9001)
    ids, expected = again(wave), tok(wave)
    assert torch.equal(ids["input_ids"], expected["input_ids"])
    frames = -(-9001 // tok.codec.config.samples_per_token)
    assert ids["input_ids"].shape == (1, 3 * frames)
    decoded = again.decode(ids["input_ids"][0], num_samples=9001)
    assert decoded.shape == (9001,)
    # a cut stream loses its incomplete frame only
    assert len(again.decode(ids["input_ids"][0, :-1])) == (frames - 1) * tok.codec.config.samples_per_token
    fewer = AudioTokenizer.from_pretrained(tmp_path, num_codebooks=2)
    assert torch.equal(fewer.encode_codes([wave])[0], tok.encode_codes([wave])[0][:2])


def test_a_long_file_is_encoded_in_windows(monkeypatch, tiny_codec):
    monkeypatch.setattr("focallm.tokenizer.audio_tokenizer.MAX_WHOLE_S", 1.0)
    tok = AudioTokenizer(tiny_codec("encodec"))
    ids = tok(noise(24000 * 3 + 5))
    assert ids["input_ids"].shape[1] == 2 * (75 * 3 + 1)
    assert tok.decode(ids["input_ids"][0], num_samples=24000 * 3 + 5).shape == (24000 * 3 + 5,)


@pytest.mark.parametrize("name", CODECS)
def test_refuses_more_codebooks_than_there_are(name, tiny_codec):
    default, available = CODECS[name]
    assert tiny_codec(name).config.num_quantizers == default
    with pytest.raises(ValueError, match=rf"must lie in 1 ... {available} .* found {available + 1}"):
        tiny_codec(name, num_codebooks=available + 1)


def test_refuses_the_stereo_encodec(tiny_codec):
    with pytest.raises(ValueError, match="24 kHz mono"):
        tiny_codec("encodec", normalize=True)


def test_refuses_wrong_codes(codec):
    codes = torch.zeros(1, codec.config.num_quantizers, 3, dtype=torch.long)
    codes[0, 0, 1] = codec.config.codebook_size
    with pytest.raises(ValueError, match="audio_codes must be"):
        codec.decode(codes)
    with pytest.raises(ValueError, match="audio_codes must be"):
        codec.decode(codes[:, :1] * 0)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("missing", ValueError, "lacks 1 weights"),
        ("shape", ValueError, "lacks 1 weights"),
        ("renamed pickle", ValueError, "not safetensors"),
        ("half", ValueError, "not safetensors"),
        ("pickle", OSError, "never loaded"),
        ("config", ValueError, "not JSON"),
    ],
)
def test_refuses_faulty_folders(tiny_codec, tmp_path, fault, error, words):
    tiny_codec("dac").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if fault in ("missing", "shape"):
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # the file itself is mapped
        key = sorted(tensors)[0]
        if fault == "missing":
            del tensors[key]
        else:
            tensors[key] = torch.zeros(3, 3)
        save_file(tensors, weights, metadata={"format": "pt"})
    elif fault == "renamed pickle":
        torch.save({"a": torch.zeros(1)}, weights)
    elif fault == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif fault == "pickle":
        weights.unlink()
        torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    elif fault == "config":
        (tmp_path / "config.json").write_text("{")
    with pytest.raises(error, match=words) as caught:
        AudioTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_refuses_an_unknown_codec(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model_type in its config\.json is 'bert', expected one of"):
        AudioTokenizer.from_pretrained(tmp_path)


def test_codecs_without_features_or_streaming_say_so(any_codec):
    wave = noise(1, 16000)
    if any_codec.feature_dim is None:
        with pytest.raises(ValueError, match="has no continuous features: use a FocalCodec"):
            any_codec.extract_features(wave)
    else:
        assert any_codec.extract_features(wave).shape[-1] == any_codec.feature_dim
    assert not any_codec.is_causal
    with pytest.raises(ValueError, match="cannot be streamed"):
        any_codec.stream()
    assert any_codec.pretrained_model.state_dict().keys()
