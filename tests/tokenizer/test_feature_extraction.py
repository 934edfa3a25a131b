"""The feature extractor converts any array to (B, 1, T) at the codec's rate, and the Auto classes find it."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from focallm.tokenizer import FocalCodecFeatureExtractor
from focallm.tokenizer.focalcodec import feature_extraction


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture
def extractor():
    return FocalCodecFeatureExtractor()


@pytest.fixture
def messages(monkeypatch):
    """Messages that the extractor logs."""
    logged = []
    monkeypatch.setattr(feature_extraction.logger, "warning_once", logged.append)
    return logged


def test_one_waveform(extractor, messages):
    wave = noise(1000)
    out = extractor(wave, sampling_rate=16000)
    assert list(out) == extractor.model_input_names == ["input_values", "padding_mask"]
    assert out["input_values"].shape == (1, 1, 1000)
    assert out["input_values"].dtype == np.float32
    assert np.array_equal(out["input_values"][0, 0], wave)
    assert out["padding_mask"].shape == (1, 1000)
    assert out["padding_mask"].dtype == bool
    assert messages == []


def test_mixed_lengths_kinds_and_rates(extractor, messages):
    items = [noise(1600), torch.from_numpy(noise(2, 800)), (noise(441) * 32767).astype(np.int16), [0.1, 0.2]]
    out = extractor(items, sampling_rate=[16000, 8000, 44100, 16000], return_tensors="pt")
    assert out["input_values"].shape == (4, 1, 1600)
    assert out["input_values"].dtype == torch.float32
    assert out["padding_mask"].dtype == torch.bool
    assert out["padding_mask"].sum(1).tolist() == [1600, 1600, 160, 2]
    assert out["padding_mask"][2, :160].all()  # padding is at the end
    assert (out["input_values"][:, 0][~out["padding_mask"]] == 0).all()
    assert len(messages) == 3
    assert "channels of the audio are averaged" in messages[0]
    assert "resampled from 8000 Hz to 16000 Hz" in messages[1]


def test_padding_and_truncation_as_in_transformers(extractor):
    items = [noise(30), noise(10)]
    assert extractor(items, padding="max_length", max_length=50)["input_values"].shape == (2, 1, 50)
    assert extractor(items, truncation=True, max_length=20)["padding_mask"].sum(1).tolist() == [20, 10]
    loose = extractor(items, padding=False)
    assert [value.shape for value in loose["input_values"]] == [(1, 30), (1, 10)]


def test_resampling_keeps_the_signal(extractor):
    tone = np.sin(2 * np.pi * 440 * np.arange(24000) / 48000).astype(np.float32)
    out = extractor(tone, sampling_rate=48000)["input_values"][0, 0]
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    assert np.abs(out - expected)[200:-200].max() < 0.01


@pytest.mark.parametrize(
    ("audio", "options", "words"),
    [
        ([], {}, "at least one waveform"),
        (np.zeros(0, np.float32), {}, "empty"),
        ([np.zeros(4, np.float32), np.float32([np.nan])], {}, "item 1: .*NaN or infinite"),
        ([np.zeros(4, np.float32)], {"sampling_rate": [16000, 8000]}, "found 1 waveforms and 2 rates"),
        (np.zeros((3, 1, 4), np.float32), {}, "batch as a list"),
        (np.zeros(4, np.float32), {"sampling_rate": -1}, "from 100 to 768000 Hz"),
    ],
)
def test_bad_audio_is_refused(extractor, audio, options, words):
    with pytest.raises(ValueError, match=words):
        extractor(audio, **options)


def test_only_one_channel_is_supported():
    with pytest.raises(ValueError, match="feature_size must be 1"):
        FocalCodecFeatureExtractor(feature_size=2)


def test_saves_and_loads(tmp_path):
    FocalCodecFeatureExtractor(sampling_rate=24000).save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(loaded, FocalCodecFeatureExtractor)
    assert loaded.sampling_rate == 24000
