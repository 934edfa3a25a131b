"""Decoding piece by piece returns all audio, exactly for causal codecs and with a bounded seam for others."""

import numpy as np
import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from focallm.tasks.demo import SAMPLE
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.chunk_decoder import ChunkDecoder
from focallm.tokenizer.codecs.transformers_codecs import EncodecCodec


def streamed(tokenizer: AudioTokenizer, ids: torch.Tensor, size: int, **options: float) -> list[np.ndarray]:
    decoder = ChunkDecoder(tokenizer, **options)
    return [*(decoder.push(part) for part in ids.split(size)), decoder.finish()]


@pytest.mark.parametrize("size", [1, 3, 4, 9, 100])
def test_a_causal_codec_streams_exactly(codec, size):
    tokenizer = AudioTokenizer(codec("tiny_50hz_causal"))
    ids = torch.randint(2048, (51,), generator=torch.Generator().manual_seed(0))
    pieces = streamed(tokenizer, ids, size)
    np.testing.assert_allclose(np.concatenate(pieces), tokenizer.decode(ids), atol=1e-4)
    assert len(pieces[-1]) > 0  # 51 is not a multiple of the chunk


@pytest.mark.parametrize("name", ["tiny_50hz", "tiny_12_5hz", "mel"])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_the_length_is_exact_and_nothing_is_dropped(codec, name, size):
    tokenizer = AudioTokenizer(codec(name))
    ids = torch.randint(2048, (61,), generator=torch.Generator().manual_seed(0))
    whole = tokenizer.decode(ids)
    pieces = streamed(tokenizer, ids, size, context_s=0.4, lookahead_s=0.1)
    assert len(np.concatenate(pieces)) == len(whole)
    assert len(pieces[-1]) > 0
    assert all(np.isfinite(piece).all() for piece in pieces)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_very_short_speech(codec, count):
    tokenizer = AudioTokenizer(codec("tiny_50hz"))
    decoder, ids = ChunkDecoder(tokenizer), torch.arange(count)
    assert len(decoder.push(ids)) == 0  # no lookahead yet
    assert len(decoder.finish()) == count * 320


def test_audio_is_returned_as_soon_as_the_lookahead_is_there(codec):
    decoder = ChunkDecoder(AudioTokenizer(codec("tiny_50hz")), lookahead_s=0.1)
    assert [len(decoder.push([i])) for i in range(7)] == [0] * 5 + [320] * 2
    causal = ChunkDecoder(AudioTokenizer(codec("tiny_50hz_causal")))
    assert [len(causal.push([i])) > 0 for i in range(8)] == [False, False, False, True] * 2


def test_several_codebooks_and_incomplete_frames():
    torch.manual_seed(0)
    config = EncodecConfig(
        num_filters=2, hidden_size=8, codebook_dim=8, num_lstm_layers=1, upsampling_ratios=[5, 4, 4, 4]
    )
    tokenizer = AudioTokenizer(EncodecCodec(EncodecModel(config), 2))
    codes = torch.randint(1024, (2, 30), generator=torch.Generator().manual_seed(0))
    ids = tokenizer.pattern.apply(codes)
    audio = np.concatenate(streamed(tokenizer, ids, 3, context_s=0.2, lookahead_s=0.05))
    assert len(audio) == len(tokenizer.decode(ids))
    assert len(np.concatenate(streamed(tokenizer, ids[:-1], 3))) == 29 * 320  # an incomplete frame is dropped


def spectral_db(a, b):
    """Mean distance of the spectra (32 ms, every 10 ms) in dB, with a floor of 60 dB below full scale."""
    levels = []
    for wave in (a, b):
        frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::160] * np.hanning(512)
        levels.append(10 * np.log10(np.abs(np.fft.rfft(frames)) ** 2 + 1e-6))
    return np.abs(levels[0] - levels[1]).mean()


def test_the_seam_with_the_weights_in_the_package():
    """Half-second pieces of real speech against decoding at once.

    Spectra are compared, not waveforms: the phase of a vocoder that was trained with discriminators is arbitrary.
    """
    tokenizer = AudioTokenizer.from_pretrained("mini")
    ids = tokenizer(SAMPLE)["input_ids"][0]
    whole = tokenizer.decode(ids)
    pieces = streamed(tokenizer, ids, 25)
    audio = np.concatenate(pieces)
    assert spectral_db(audio, whole) < 1.7  # measured: 1.55; shifting the audio by 1 ms gives 0.69
    assert spectral_db(audio[16000:], whole[16000:]) < 0.6  # measured: 0.51, because the mean has settled
    ahead = np.concatenate(streamed(tokenizer, ids, 25, lookahead_s=1.0))
    assert spectral_db(ahead[16000:], whole[16000:]) < 0.1  # measured: 0.07
    assert np.array_equal(np.concatenate(streamed(tokenizer, ids, 25, context_s=9, lookahead_s=9)), whole)
    seams = np.cumsum([len(piece) for piece in pieces if len(piece)])[:-1]
    steps = np.abs(np.diff(audio))
    assert max(steps[seam - 4 : seam + 4].max() for seam in seams) < np.abs(np.diff(whole)).max()  # no click


def test_negative_durations_are_refused(codec):
    with pytest.raises(ValueError, match="cannot be negative"):
        ChunkDecoder(AudioTokenizer(codec("tiny_50hz")), lookahead_s=-1)
    decoder = ChunkDecoder(AudioTokenizer(codec("tiny_50hz")))
    decoder.push([0, 9000])
    with pytest.raises(ValueError, match=r"holds 0 \.\.\. 8191"):
        decoder.finish()
