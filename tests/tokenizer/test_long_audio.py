"""Long audio is exact for causal codecs, close for others, and always has the exact length."""

import pytest
import torch

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel
from focallm.tokenizer.long_audio import _cut, decode_long, encode_long

RATE = 16000


def tiny(causal=False, factors=(1, 1, 1)):
    """A WavLM-shaped FocalCodec with random weights."""
    torch.manual_seed(0)
    focal = {"hidden_dims": [8, 8, 8], "factors": list(factors), "focal_window": 3, "focal_level": 2, "focal_factor": 2}
    window = {"causal": True, "window_size": 16} if causal else {}
    config = FocalCodecConfig(
        encoder={
            "type": "wavlm",
            "hidden_dims": [8] * 7,
            "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
            "strides": [5, 2, 2, 2, 2, 2, 2],
            "num_layers": 1,
            "dim": 16,
            "ffn_dim": 16,
            "num_heads": 2,
            "conv_pos": 8,
            "conv_pos_groups": 2,
            **window,
        },
        compressor={"input_dim": 16, "output_dim": 6, **focal, **window},
        quantizer={"codebook_size": 64},
        decompressor={"input_dim": 6, "output_dim": 16, **focal, **window},
        decoder={"type": "wavenext" if causal else "vocos", "input_dim": 16, "num_layers": 1, "dim": 8, "ffn_dim": 16},
    )
    model = FocalCodecModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    if causal:
        torch.nn.init.normal_(model.decoder.head.proj.weight, std=0.02)  # so that nothing is clipped
    return model


def noise(samples):
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("samples", [1, 100, RATE, 4 * RATE, 4 * RATE + 1, 4 * RATE + 777, 5 * RATE + 1279])
def test_causal_windows_are_exact(samples):
    model, wave = tiny(causal=True), noise(samples)
    whole = model.encode(wave).audio_codes
    assert torch.equal(encode_long(model, wave, window_s=1.0), whole)
    audio = model.decode(whole, num_samples=samples).audio_values[0]
    windows = decode_long(model, whole, samples, window_s=1.0)
    assert windows.shape == audio.shape
    assert torch.allclose(windows, audio, atol=1e-4)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("samples", [100, RATE, 4 * RATE + 777, 5 * 1280 * 10, 5 * 1280 * 10 + 1])
def test_other_windows_have_exact_lengths_and_few_differences(factors, samples):
    model, wave = tiny(factors=factors), noise(samples)
    whole = model.encode(wave).audio_codes
    tokens = encode_long(model, wave, window_s=1.0, context_s=0.5)
    assert tokens.shape == whole.shape
    # Random weights depend more on global means than trained ones; a shift by one token would give 1 in 64.
    assert (tokens == whole).float().mean() > 0.6
    audio = model.decode(whole, num_samples=samples).audio_values[0]
    windows = decode_long(model, whole, samples, window_s=1.0, context_s=0.5)
    assert windows.shape == audio.shape == (1, samples)
    assert (windows - audio).square().mean() < 0.01 * audio.square().mean()


def test_seams_are_as_smooth_as_the_rest():
    model = tiny()
    codes = torch.randint(64, (1, 1, 200), generator=torch.Generator().manual_seed(0))
    audio = decode_long(model, codes, window_s=1.0, context_s=0.5)[0]
    whole = model.decode(codes).audio_values[0, 0]
    seams = torch.arange(50, 200, 50) * 320
    near = torch.cat([torch.arange(s - 400, s + 400) for s in seams.tolist()])
    assert (audio - whole)[near].abs().max() < 0.1 * whole.abs().max()
    steps = audio.diff().abs()
    assert max(steps[s - 2 : s + 2].max() for s in seams.tolist()) <= steps.max()
    assert max(steps[s - 2 : s + 2].max() for s in seams.tolist()) < 2 * whole.diff().abs().max()


def test_one_window_is_one_pass():
    model, wave = tiny(), noise(RATE)
    whole = model.encode(wave).audio_codes
    assert torch.equal(encode_long(model, wave), whole)
    assert torch.equal(decode_long(model, whole)[None], model.decode(whole).audio_values)


def test_audio_beyond_the_tokens_repeats_the_last_sample():
    model = tiny()
    audio = decode_long(model, torch.zeros(1, 1, 100, dtype=torch.long), 100 * 320 + 50, window_s=1.0, context_s=0.5)
    assert audio.shape == (1, 100 * 320 + 50)
    assert (audio[0, -50:] == audio[0, -51]).all()


@pytest.mark.parametrize("total", [1, 9, 10, 11, 19, 20, 35])
def test_pieces_cover_everything_and_are_not_tiny(total):
    pieces = _cut(total, 10)
    assert [i for a, b in pieces for i in range(a, b)] == list(range(total))
    assert all(10 <= b - a < 20 for a, b in pieces) or total < 10


def test_memory_does_not_grow_with_the_file():
    model, seen = tiny(), []
    original = model.encode
    model.encode = lambda wave, *args: seen.append(wave.shape[1]) or original(wave, *args)
    encode_long(model, noise(60 * RATE), window_s=2.0, context_s=0.5)
    assert max(seen) <= (2 * 2.0 + 1.0) * RATE
    assert len(seen) == 29  # 2999 tokens
