"""What a task returns."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...lm.generation import StopReason
from ...tokenizer import write_audio


@dataclass(frozen=True)
class SpeechResult:
    """Audio (T,) float32, or (talkers, T), at `sampling_rate` Hz, why it ended, and figures about its making."""

    audio: np.ndarray
    sampling_rate: int
    stop_reason: StopReason
    stats: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> list[Path]:
        """Write the audio, and the folders it needs; the suffix chooses the format (.wav, .flac, .ogg).

        Returns:
            What was written: the path, or, for several talkers, `name_1.wav`, `name_2.wav`, ... beside it.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = [path]
        if self.audio.ndim == 2:
            paths = [path.with_stem(f"{path.stem}_{i + 1}") for i in range(len(self.audio))]
        for file, wave in zip(paths, np.atleast_2d(self.audio), strict=True):
            write_audio(file, wave, self.sampling_rate)
        return paths


@dataclass(frozen=True)
class Transcript:
    """What was said, why the text ended, and figures about its making."""

    text: str
    stop_reason: StopReason
    stats: dict[str, Any] = field(default_factory=dict)


def measure(began: float, tokens: Sequence[int], seconds: Sequence[float]) -> list[dict[str, Any]]:
    """The figures that every result has, for each item of a batch.

    Args:
        began: `time.perf_counter()` at the beginning, when the model was there already.
        tokens: that were written.
        seconds: of audio.
    """
    elapsed = time.perf_counter() - began
    factor = elapsed / sum(seconds)  # a batch is made at once: its items share time and speed
    return [
        {"tokens": t, "seconds": s, "elapsed_s": elapsed, "real_time_factor": factor}
        for t, s in zip(tokens, seconds, strict=True)
    ]
