"""Tokens depend only on the waveform: each item of a padded batch gets the result of a single call."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from focallm.tokenizer.focalcodec import modeling

KINDS = ["tiny_50hz", "tiny_25hz", "tiny_12_5hz", "mel", "tiny_50hz_causal"]
# One sample, one frame, the edges of the receptive field (400), odd and even frame counts, a piece of the convolutions.
EDGES = [1, 2, 319, 320, 321, 399, 400, 401, 719, 720, 960, 1280, 1281, 3 * 320 + 80, 4 * 320 + 80, 7777]
lengths = st.lists(st.sampled_from(EDGES) | st.integers(1, 12000), min_size=2, max_size=5)
examples = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(lengths=lengths)
def test_a_batch_equals_single_calls(codec, kind: str, lengths: list[int]) -> None:
    model = codec(kind)
    waveforms = [_noise(length) for length in lengths]
    batch, mask = _pad(waveforms)
    encoded = model.encode(batch, mask)
    features = model.extract_features(batch[:, None], mask)
    decoded = model.decode(encoded.audio_codes, encoded.audio_codes_mask)
    fitted = model.decode(encoded.audio_codes, encoded.audio_codes_mask, num_samples=lengths)
    for i, waveform in enumerate(waveforms):
        single = model.encode(waveform[None])
        tokens = single.audio_codes.shape[-1]
        assert torch.equal(encoded.audio_codes[i, 0, :tokens], single.audio_codes[0, 0])
        assert encoded.audio_codes_mask[i].tolist() == [n < tokens for n in range(encoded.audio_codes.shape[-1])]
        assert not encoded.audio_codes[i, 0, tokens:].any()
        _assert_item(features[i], model.extract_features(waveform[None])[0], 5e-5)
        audio = model.decode(single.audio_codes).audio_values[0, 0]
        _assert_item(decoded.audio_values[i, 0], audio, 1e-5)
        assert int(decoded.padding_mask[i].sum()) == len(audio)
        exact = model.decode(single.audio_codes, num_samples=lengths[i]).audio_values[0, 0]
        assert len(exact) == lengths[i] * model.config.output_sampling_rate // model.config.sampling_rate
        _assert_item(fitted.audio_values[i, 0], exact, 1e-5)


def test_a_batch_longer_than_a_piece_of_the_convolutions(codec) -> None:
    model = codec("tiny_50hz")
    waveforms = [_noise(length) for length in (256 * 320 + 79, 256 * 320 + 80, 256 * 320 + 400, 100_000, 500)]
    encoded = model.encode(*_pad(waveforms))
    for i, waveform in enumerate(waveforms):
        single = model.encode(waveform[None]).audio_codes[0, 0]
        assert torch.equal(encoded.audio_codes[i, 0, : len(single)], single)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [1e4, float("nan")])
def test_the_content_of_padding_does_not_matter(codec, kind: str, garbage: float) -> None:
    model = codec(kind)
    batch, mask = _pad([_noise(5000), _noise(1), _noise(1999)])
    clean, dirty = model.encode(batch, mask), model.encode(batch.masked_fill(~mask, garbage), mask)
    assert torch.equal(clean.audio_codes, dirty.audio_codes)
    assert torch.equal(clean.latents, dirty.latents)
    if not model.config.causal:  # the encoder by itself, as training calls it
        features = model.encoder(batch.masked_fill(~mask, garbage), mask.sum(dim=1))
        torch.testing.assert_close(features, model.extract_features(batch, mask), atol=5e-5, rtol=0)
    tokens, valid = clean.audio_codes, clean.audio_codes_mask
    filled = tokens.masked_fill(~valid[:, None], 10**6)
    assert torch.equal(model.decode(tokens, valid).audio_values, model.decode(filled, valid).audio_values)


def test_padding_that_all_items_share_is_cut(codec) -> None:
    model = codec("tiny_25hz")
    batch, mask = _pad([_noise(3000), _noise(3000), _noise(6000)])
    both = model(batch[:2], mask[:2])
    assert both.audio_values.shape == (2, 1, 3000)
    assert torch.equal(both.audio_values, model(batch[:2, :3000]).audio_values)


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_near_a_sign_change_is_encoded_again_alone(codec, kind: str, monkeypatch) -> None:
    model = codec(kind)
    waveforms = [_noise(length) for length in (4000, 9000, 6500)]
    batch, mask = _pad(waveforms)
    monkeypatch.setattr(modeling, "_NEAR_ZERO", 2.0)  # as if every latent were too near to zero
    latents = model.encode(batch, mask).latents
    for i, waveform in enumerate(waveforms):
        single = model.encode(waveform[None]).latents[0]
        assert torch.equal(latents[i, : len(single)], single)  # bit for bit


def test_only_the_items_near_a_sign_change_are_encoded_again(codec, monkeypatch) -> None:
    model = codec("tiny_50hz")
    batch, mask = _pad([_noise(length) for length in (4000, 9000, 6500)])
    encoded = model.encode(batch, mask)
    nearest = [
        latents[valid].abs().min().item()
        for latents, valid in zip(encoded.latents, encoded.audio_codes_mask, strict=True)
    ]
    calls = []
    original = type(model)._encode_latents
    monkeypatch.setattr(type(model), "_encode_latents", lambda *args: calls.append(len(args[1])) or original(*args))
    for threshold, expected in ((min(nearest) / 2, [3]), (sorted(nearest)[1], [3, 1]), (1.0, [3, 1, 1, 1])):
        calls.clear()
        monkeypatch.setattr(modeling, "_NEAR_ZERO", threshold)
        assert torch.equal(model.encode(batch, mask).audio_codes, encoded.audio_codes)
        assert calls == expected


def test_the_order_of_a_batch_does_not_matter(codec) -> None:
    model = codec("tiny_12_5hz")
    waveforms = [_noise(length) for length in (1, 5000, 320, 2500)]
    forward, backward = model.encode(*_pad(waveforms)), model.encode(*_pad(waveforms[::-1]))
    assert torch.equal(forward.audio_codes, backward.audio_codes.flip(0))


def _noise(length: int) -> Tensor:
    return 0.3 * torch.randn(length, generator=torch.Generator().manual_seed(length))


def _pad(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    sizes = torch.tensor([len(waveform) for waveform in waveforms])
    return batch, torch.arange(batch.shape[1]) < sizes[:, None]


def _assert_item(padded: Tensor, single: Tensor, tolerance: float) -> None:
    """The item, followed by zeros."""
    torch.testing.assert_close(padded[: len(single)], single, atol=tolerance, rtol=0)
    assert not padded[len(single) :].any()
