from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from focallm.lm.continuous_batching import ContinuousBatch
from focallm.tasks import speak, stream_speech


def test_the_pieces_of_a_causal_codec_are_what_speak_gives(speech_lm, monkeypatch):
    monkeypatch.setattr("focallm.lm.pieces.RETRIES", 0)
    lm = speech_lm("tts", codec_name="tiny_50hz_causal")
    stream, whole = stream_speech("hello there", lm, seed=2), speak("hello there", lm, seed=2)
    pieces = list(stream)
    assert len(pieces) > 2
    np.testing.assert_allclose(np.concatenate(pieces), whole.audio, atol=1e-4)
    assert np.array_equal(stream.result.audio, np.concatenate(pieces))
    assert stream.result.stop_reason == whole.stop_reason
    assert stream.result.stats["tokens"] == whole.stats["tokens"]


def test_another_codec_gives_as_much_and_the_first_piece_early(speech_lm, monkeypatch):
    monkeypatch.setattr("focallm.lm.pieces.RETRIES", 0)
    lm = speech_lm("tts", "zero-shot")
    stream = stream_speech("hello there", lm, seed=2)
    pieces = list(stream)
    assert len(pieces) > 2
    assert len(np.concatenate(pieces)) == len(speak("hello there", lm, seed=2).audio)
    stats = stream.result.stats
    assert 0 < stats["time_to_first_audio_s"] < stats["elapsed_s"]
    assert np.array_equal(np.concatenate(list(stream)), np.concatenate(pieces))  # again the same
    reference = {"reference": [0.1, 0.0] * 900, "reference_text": "a", "sampling_rate": 16000}
    assert sum(len(piece) for piece in stream_speech("hi", lm, **reference)) > 0


def test_invalid_arguments_are_explained(speech_lm):
    lm = speech_lm("tts")
    with pytest.raises(ValueError, match="text is empty"):
        stream_speech(" ", lm)
    with pytest.raises(ValueError, match="chunk_s"):
        stream_speech("hi", lm, chunk_s=0)
    with pytest.raises(ValueError, match="iterate over it to the end"):
        _ = stream_speech("hi", lm).result


def test_speech_of_a_shared_batch_is_the_same(speech_lm, monkeypatch):
    monkeypatch.setattr("focallm.lm.pieces.RETRIES", 0)
    lm = speech_lm("tts", codec_name="tiny_50hz_causal")
    texts = ["hello there", "ho", "hum and hum"]
    with ContinuousBatch(lm, max_rows=2) as batch, ThreadPoolExecutor(3) as threads:

        def stream(text):
            return np.concatenate(list(stream_speech(text, lm, seed=2, generator=batch)))

        for text, audio in zip(texts, threads.map(stream, texts), strict=True):
            np.testing.assert_allclose(audio, speak(text, lm, seed=2).audio, atol=1e-4)
        both = speak(texts, lm, seed=2, generator=batch)
        for found, alone in zip(both, speak(texts, lm, seed=2), strict=True):
            np.testing.assert_allclose(found.audio, alone.audio, atol=1e-5)
        # An iterator that is closed gives its row to others.
        iterator = iter(stream_speech("hello there", lm, generator=batch))
        next(iterator)
        iterator.close()
        assert len(speak("ho", lm, generator=batch).audio) > 0
        with pytest.raises(ValueError, match="a batch of another model"):
            speak("ho", speech_lm("tts"), generator=batch)
