"""Stable Codec against golden tensors of the reference (tiny random weights), and its two layouts."""

import gzip
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs.checkpoint import fold_weight_norm
from focallm.tokenizer.codecs.layers import window_attention
from focallm.tokenizer.codecs.stable_codec import (
    PRESETS,
    ResidualFSQ,
    StableCodec,
    StableCodecConfig,
    StableCodecModel,
    convert_config,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "codecs"
AUDIO_TOLERANCE = {"tiny": 1e-4, "tiny_flags": 5e-4}


@pytest.fixture(params=AUDIO_TOLERANCE, scope="module")
def golden(request):
    folder = FIXTURES / "stable_codec" / request.param
    return request.param, StableCodec.from_pretrained(folder), load_file(folder / "tensors.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A copy of the official layout that a test may damage."""
    for name in ("model_config.json", "model.safetensors"):
        shutil.copy(FIXTURES / "stable_codec" / "tiny" / name, tmp_path / name)
    return tmp_path


def change_weights(folder, change):
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


# Golden tensors.


@torch.no_grad()
def test_latents_and_codes_are_those_of_the_reference(golden):
    _, codec, tensors = golden
    latents = codec.model.extract_latents(tensors["sig"])
    close(latents, tensors["latents"], 5e-5)
    for preset, stages in {**PRESETS, "native": ((17, 1.0),)}.items():
        quantizer = ResidualFSQ(6, stages)
        for source in (latents, tensors["latents"]):
            codes = quantizer.to_codes(source)
            assert torch.equal(codes.mT, tensors[f"{preset}.toks"])
        close(quantizer.to_vectors(codes), tensors[f"{preset}.qlatents"], 1e-6)


@torch.no_grad()
def test_audio_is_that_of_the_reference(golden):
    name, codec, tensors = golden
    codes = tensors["2x15625_700bps.toks"].mT
    assert torch.equal(codec.encode(tensors["sig"]).audio_codes, codes)
    close(codec.decode(codes).audio_values, tensors["2x15625_700bps.rec_sig"], AUDIO_TOLERANCE[name])


@torch.no_grad()
def test_stages_are_those_of_the_reference(golden):
    name, codec, tensors = golden
    seen = {}
    for path, module in codec.model.named_modules():
        if f"stage.{path}" in tensors:
            module.register_forward_hook(lambda m, args, out, path=path: seen.__setitem__(path, out))
    codec.model.decode(codec.model.encode(tensors["sig"][:1]))
    expected = {key.removeprefix("stage."): value for key, value in tensors.items() if key.startswith("stage.")}
    assert seen.keys() == expected.keys()
    for path, value in expected.items():
        close(seen[path], value, AUDIO_TOLERANCE[name])
    for module in codec.model.modules():
        module._forward_hooks.clear()


def test_the_native_preset_gives_the_audio_of_the_default_one():
    folder = FIXTURES / "stable_codec" / "tiny"
    tensors = load_file(folder / "tensors.safetensors")
    codec = StableCodec.from_pretrained(folder, preset="native")
    assert (codec.config.codebook_size, codec.config.num_quantizers) == (17**6, 1)
    codes = codec.encode(tensors["sig"]).audio_codes
    assert torch.equal(codes.mT, tensors["native.toks"])
    close(codec.decode(codes).audio_values, tensors["native.rec_sig"], 1e-4)


# The parts.


@pytest.mark.parametrize("frames", [1, 3, 8, 9, 50])
@pytest.mark.parametrize("past", [0, 2])
def test_windowed_attention_equals_a_mask(frames, past):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, size, 4) for size in (frames, past + frames, past + frames))
    distance = torch.arange(past + frames) - torch.arange(past, past + frames)[:, None]
    mask = (distance >= -3) & (distance <= 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    close(window_attention(q, k, v, 3, 4), expected, 1e-6)


def test_windowed_attention_has_gradients_where_the_last_chunk_is_filled_up():
    q, k, v = (torch.randn(1, 1, 11, 4, requires_grad=True) for _ in range(3))
    window_attention(q, k, v, 3, 0).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


@pytest.mark.parametrize("preset", PRESETS)
def test_codes_of_grid_points_are_exact(preset):
    quantizer = ResidualFSQ(6, PRESETS[preset])
    latents = noise(2, 6, 50) * 4
    codes = quantizer.to_codes(latents)
    assert 0 <= int(codes.min())
    assert int(codes.max()) < quantizer.codebook_size
    vectors = quantizer.to_vectors(codes)
    finest = quantizer.scales[-1] / (quantizer.levels - 1)
    assert (vectors - latents.tanh()).abs().max() <= finest + 1e-6
    summed = sum(table[code] for table, code in zip(quantizer.tables(), codes.unbind(1), strict=True))
    close(summed.mT, vectors, 1e-6)


def test_codebooks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="same number of levels"):
        ResidualFSQ(6, ((5, 1.0), (3, 0.25)))


# Sizes, lengths, batches.


def test_keys_and_shapes_at_the_official_size():
    facts = json.loads(gzip.decompress((FIXTURES / "stable_codec_keys.json.gz").read_bytes()))
    shapes = {key: value["shape"] for key, value in facts["plain_keys"].items()}
    for prefix, (first, last) in facts["stacks"].items():
        for index in range(first, last + 1):
            for key, value in facts["transformer_block"].items():
                shapes[f"{prefix}.{index}.{key}"] = value["shape"]
    assert len(shapes) == facts["_about"]["keys_total"]
    with torch.device("meta"):
        model = StableCodecModel(StableCodecConfig())
        official = fold_weight_norm({key: torch.empty(shape) for key, shape in shapes.items()})
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in official.items()}
    gains = sum(math.prod(shape) for key, shape in shapes.items() if key.endswith("weight_g"))
    assert sum(p.numel() for p in model.parameters()) + gains == facts["_about"]["parameters"]
    config = model.config
    assert (config.samples_per_token, config.quantizer.codebook_size, len(config.stages)) == (640, 15625, 2)


@pytest.mark.parametrize("samples", [1, 19, 20, 21, 39, 40, 41, 1679, 1680, 1681, 12345])
def test_counts_and_lengths(golden, samples):
    _, codec, _ = golden
    hop = codec.config.samples_per_token
    out = codec.encode(noise(1, 1, samples))
    assert out.audio_codes.shape == (1, 2, -(-samples // hop))
    assert int(codec.num_tokens(samples)) == -(-samples // hop)
    assert codec.decode(out.audio_codes, num_samples=samples).audio_values.shape == (1, 1, samples)
    assert codec.decode(out.audio_codes).audio_values.shape[-1] == out.audio_codes.shape[-1] * hop


def test_a_batch_gives_what_single_items_give(golden):
    _, codec, _ = golden
    lengths = [2500, 1, 1321]
    wave = noise(3, 1, 2500)
    out = codec.encode(wave, torch.arange(2500) < torch.tensor(lengths)[:, None])
    decoded = codec.decode(out.audio_codes, out.audio_codes_mask, lengths)
    for i, length in enumerate(lengths):
        single = codec.encode(wave[i : i + 1, :, :length])
        assert torch.equal(out.audio_codes[i][:, out.audio_codes_mask[i]], single.audio_codes[0])
        alone = codec.decode(single.audio_codes, num_samples=length).audio_values
        assert torch.equal(decoded.audio_values[i, 0, :length], alone[0, 0])


def test_fewer_codebooks_are_the_first_ones(golden):
    _, codec, tensors = golden
    first = StableCodec(codec.model, num_codebooks=1)
    codes = first.encode(tensors["sig"]).audio_codes
    assert torch.equal(codes.mT, tensors["2x15625_700bps.toks"][..., :1])
    assert first.decode(codes).audio_values.shape == tensors["sig"].shape
    assert [table.shape for table in first.code_vectors()] == [(15625, 6)]
    StableCodec(codec.model, num_codebooks=2)


# Folders.


def test_both_layouts_through_the_audio_tokenizer(tmp_path):
    tok = AudioTokenizer.from_pretrained(FIXTURES / "stable_codec" / "tiny")
    assert (tok.num_codebooks, tok.codebook_size, tok.sampling_rate) == (2, 15625, 16000)
    tok.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 16000
    again = AudioTokenizer.from_pretrained(tmp_path)
    wave = noise(4001)
    ids = tok(wave)["input_ids"]
    assert torch.equal(again(wave)["input_ids"], ids)
    assert (again.decode(ids[0], 4001) == tok.decode(ids[0], 4001)).all()
    state, expected = again.codec.model.state_dict(), tok.codec.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert state.keys() == expected.keys()


def test_the_preset_is_remembered(tmp_path):
    tok = AudioTokenizer.from_pretrained(FIXTURES / "stable_codec" / "tiny", preset="4x729_1000bps")
    assert (tok.num_codebooks, tok.codebook_size) == (4, 729)
    tok.save_pretrained(tmp_path)
    assert AudioTokenizer.from_pretrained(tmp_path).num_codebooks == 4
    assert AudioTokenizer.from_pretrained(tmp_path, preset="1x46656_400bps").codebook_sizes == (46656,)
    assert AudioTokenizer.from_pretrained(tmp_path, num_codebooks=3).num_codebooks == 3


def test_the_newer_spelling_of_weight_norm(folder):
    def respell(tensors):
        for key in list(tensors):
            for old, new in ((".weight_g", "original0"), (".weight_v", "original1")):
                if key.endswith(old):
                    tensors[key.replace(old, f".parametrizations.weight.{new}")] = tensors.pop(key)

    change_weights(folder, respell)
    wave = noise(1, 1, 900)
    expected = StableCodec.from_pretrained(FIXTURES / "stable_codec" / "tiny").encode(wave).audio_codes
    assert torch.equal(StableCodec.from_pretrained(folder).encode(wave).audio_codes, expected)


QKV = "encoder.layers.1.layers.2.1.self_attn.to_qkv.weight"


FAULTS = {
    "missing": (lambda t: t.pop(QKV), QKV),
    "extra": (lambda t: t.update({"encoder.extra": torch.zeros(2)}), r"left over: \['encoder\.extra'\]"),
    "shape": (lambda t: t.update({QKV: torch.zeros(3, 3)}), QKV),
    "half a weight norm": (lambda t: t.pop("encoder.layers.0.weight_g"), r"encoder\.layers\.0\.weight_g"),
    "magnitude": (lambda t: t.update({"encoder.layers.0.weight_g": torch.ones(1, 1, 1)}), r"layers\.0\.weight_g"),
}


@pytest.mark.parametrize(
    ("layout", "fault"),
    [*(("official", fault) for fault in FAULTS), ("ours", "missing"), ("ours", "extra"), ("ours", "shape")],
)
def test_a_key_that_does_not_fit_is_named(folder, layout, fault):
    if layout == "ours":  # where weight norm is folded
        StableCodec.from_pretrained(folder).save_pretrained(folder)
    change, named = FAULTS[fault]
    change_weights(folder, change)
    with pytest.raises(ValueError, match=named) as caught:
        AudioTokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_with_only_a_pickle_says_how_to_convert(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": tensors}, folder / "model.ckpt")
    for load in (AudioTokenizer.from_pretrained, StableCodec.from_pretrained):
        with pytest.raises(OSError, match=r"torch\.load\('.*model\.ckpt', map_location='cpu', weights_only=True\)"):
            load(folder)


def test_an_unknown_preset_or_bottleneck_is_refused(folder):
    with pytest.raises(ValueError, match="preset must be one of"):
        StableCodec.from_pretrained(folder, preset="3x5")
    config = json.loads((folder / "model_config.json").read_text())
    config["model"]["bottleneck"]["type"] = "vae"
    with pytest.raises(ValueError, match="'bottleneck': 'vae'"):
        convert_config(config)
    config["model"]["bottleneck"] = {"type": "dithered_fsq", "config": {"dim": 8, "levels": [17] * 8}}
    with pytest.raises(ValueError, match="latent_dim is 6 instead of 8"):
        convert_config(config)
    with pytest.raises(ValueError, match="keep the number of frames"):
        StableCodecConfig(encoder={"c_mults": [1, 2], "strides": [2, 1], "transformer_depths": [1, 1]})
