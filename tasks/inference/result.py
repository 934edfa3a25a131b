"""Results of the tasks, with statistics about the generation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...lm.generation import StopReason
from ...tokenizer.audio import write_audio
from .timestamps import Timestamp


@dataclass(frozen=True, repr=False)
class SpeechResult:
    """Generated audio, why generation stopped, and statistics about it.

    Args:
        audio: (T,) float32, or (speakers, T) from `separate`.
        sampling_rate: Rate of the audio in Hz.
        stop_reason: "end" if the model ended by itself, "max_length" if it reached the longest length that was allowed,
            and "constraint" if the input determined the length.
        stats: Number of generated tokens, duration in seconds, and the time that the generation took.
        words: When each word is spoken; empty unless the model aligns text and speech.
        phonemes: The same for phonemes and pauses, which cover the audio.
    """

    audio: np.ndarray
    sampling_rate: int
    stop_reason: StopReason
    stats: dict[str, Any] = field(default_factory=dict)
    words: list[Timestamp] = field(default_factory=list)
    phonemes: list[Timestamp] = field(default_factory=list)

    def __repr__(self) -> str:
        num_speakers = f"num_speakers={len(self.audio)}, " if self.audio.ndim == 2 else ""
        return (
            f"SpeechResult(duration_s={self.audio.shape[-1] / self.sampling_rate:.2f}, {num_speakers}"
            f"sampling_rate={self.sampling_rate}, stop_reason={self.stop_reason!r})"
        )

    def save(self, path: str | Path) -> list[Path]:
        """Write the audio, and create its folder. The suffix chooses the format: .wav, .flac or .ogg.

        Returns:
            The files: the path itself, or `name_1.wav`, `name_2.wav`, ... for several speakers.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = [path]
        if self.audio.ndim == 2:
            paths = [path.with_stem(f"{path.stem}_{i + 1}") for i in range(len(self.audio))]
        for file, wave in zip(paths, np.atleast_2d(self.audio), strict=True):
            write_audio(file, wave, self.sampling_rate)
        return paths


@dataclass(frozen=True, repr=False)
class Transcript:
    """The text of a recording, why it ended, and statistics about its generation, as in `SpeechResult`."""

    text: str
    stop_reason: StopReason
    stats: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        duration = f"duration_s={self.stats['seconds']:.2f}, " if "seconds" in self.stats else ""
        return f"Transcript(text={self.text!r}, {duration}stop_reason={self.stop_reason!r})"


def speech_results(
    start_time: float,
    codes: Sequence[Tensor],
    audios: Sequence[np.ndarray],
    sampling_rate: int,
    stop_reasons: Sequence[StopReason],
) -> list[SpeechResult]:
    """Return the results of a batch.

    Args:
        start_time: `time.perf_counter()` before generation, after the model was loaded.
        codes: Generated codes of each item, of any shape.
        audios: Decoded audio (T,) or (speakers, T) of each item.
        sampling_rate: Rate of the audio in Hz.
        stop_reasons: Why the generation of each item stopped.
    """
    num_tokens = [item.numel() for item in codes]
    seconds = [audio.shape[-1] / sampling_rate for audio in audios]
    stats = generation_stats(start_time, num_tokens, seconds)
    results = []
    for audio, stop_reason, item_stats in zip(audios, stop_reasons, stats, strict=True):
        results.append(SpeechResult(audio, sampling_rate, stop_reason, item_stats))
    return results


def generation_stats(start_time: float, num_tokens: Sequence[int], seconds: Sequence[float]) -> list[dict[str, Any]]:
    """Return the statistics that every result has, for each item of a batch.

    Args:
        start_time: `time.perf_counter()` before generation, after the model was loaded.
        num_tokens: Number of generated tokens of each item.
        seconds: Duration of the audio of each item.
    """
    # The items of a batch are generated together, so they share the elapsed time and the speed.
    elapsed_s = time.perf_counter() - start_time
    real_time_factor = elapsed_s / sum(seconds)
    stats = []
    for item_tokens, item_seconds in zip(num_tokens, seconds, strict=True):
        stats.append(
            {
                "tokens": item_tokens,
                "seconds": item_seconds,
                "elapsed_s": elapsed_s,
                "real_time_factor": real_time_factor,
            }
        )
    return stats
