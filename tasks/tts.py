"""Speech from text."""

import time
from pathlib import Path
from typing import Any

from ..lm import Sampling, SpeechLM
from .result import SpeechResult
from .template import TTS

RETRIES = 2  # further attempts, each with another seed, when a reading has no end


def speak(
    text: str,
    model: str | Path | SpeechLM = "mini",
    voice: str | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SpeechResult:
    """Read a text aloud.

    Args:
        text: what to say; any length the model's positions allow.
        model: `"mini"`, a folder that `focallm train tts` made, or a loaded `SpeechLM` (load once, speak often).
        voice: one of the voices the model was trained on; the most frequent of them by default.
        sampling: how tokens are drawn.
        seed: the same seed gives the same speech.

    Returns:
        The audio (T,) float32 with its rate; `stop_reason` is "end", or "length" if every attempt ran into the longest
        duration that the text can take; `stats` counts tokens, seconds and attempts.

    Raises:
        ValueError: an empty text, an unknown voice, or a model of another task.
    """
    began = time.perf_counter()
    lm = model if isinstance(model, SpeechLM) else SpeechLM.from_pretrained(model)
    voice = _check(text, voice, lm)
    prompt = TTS.prompt(lm.vocabulary, speaker=voice, text=text)
    window = lm.info.length_window
    assert window is not None  # _check has seen it
    length = window.tokens(len(text), lm.audio_tokenizer.tokens_per_second)
    for attempt in range(1 + RETRIES):
        generation = lm.generate(prompt, length, sampling, seed + attempt)
        if generation.stop_reason == "end":
            break
    audio = lm.audio_tokenizer.decode(generation.codes)
    seconds = len(audio) / lm.audio_tokenizer.output_sampling_rate
    elapsed = time.perf_counter() - began
    stats: dict[str, Any] = {
        "tokens": len(generation.codes),
        "seconds": seconds,
        "attempts": attempt + 1,
        "elapsed_s": elapsed,
        "real_time_factor": elapsed / seconds,
        "voice": voice,
    }
    return SpeechResult(audio, lm.audio_tokenizer.output_sampling_rate, generation.stop_reason, stats)


def _check(text: str, voice: str | None, lm: SpeechLM) -> str:
    """-> the voice to use"""
    if lm.info.task != "tts":
        raise ValueError(f"this model was trained for {lm.info.task!r}, not for tts: name another folder")
    if lm.info.length_window is None or not lm.info.voices:
        raise ValueError("this model has not been trained to speak (it knows no voice and no pace): focallm train tts")
    if not text.strip():
        raise ValueError("the text is empty: give at least one word")
    if voice is not None and voice not in lm.info.voices:
        raise ValueError(f"no voice is called {voice!r}: this model knows {', '.join(lm.info.voices)}")
    return voice or lm.info.voices[0]
