"""Random clips of a corpus, held in memory as 16-bit samples (115 MB an hour). B batch, T samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from ..audio import read_audio


class Clips:
    """Audio files in memory, from which batches of clips are drawn.

    Args:
        paths: audio files of any rate; files shorter than 50 ms are left out.
        sampling_rate: rate in Hz that all are brought to.
        progress: wraps the paths (a progress bar), for instance `tqdm.tqdm`.
    """

    def __init__(self, paths: Sequence[Path], sampling_rate: int, progress: type | None = None) -> None:
        self.sampling_rate = sampling_rate
        waves = (read_audio(path, sampling_rate)[0] for path in (progress(paths) if progress else paths))
        self.waves = [(w * 32767).round().astype(np.int16) for w in waves if len(w) >= sampling_rate // 20]
        if not self.waves:
            raise ValueError(f"none of the {len(paths)} audio files lasts 50 ms or more: is this the right corpus?")
        self._ends = np.cumsum([len(w) for w in self.waves])

    @property
    def seconds(self) -> float:
        """Duration of all files together."""
        return float(self._ends[-1]) / self.sampling_rate

    def batches(self, batch_size: int, samples: int, rng: np.random.Generator, speed: float = 0.0) -> Iterator[Tensor]:
        """Endless (B, samples) clips at random levels; long files are drawn more often, short ones padded with zeros.

        Args:
            batch_size, samples: B, and the length of each clip.
            rng: draws everything.
            speed: each clip is played faster or slower by up to this factor minus one, pitch and all: other voices.
        """
        while True:
            yield torch.stack([self._clip(samples, rng, speed) for _ in range(batch_size)])

    def _clip(self, size: int, rng: np.random.Generator, speed: float) -> Tensor:
        factor = float(np.exp(rng.uniform(-1, 1) * np.log1p(speed)))
        samples = round(size * factor)
        wave = self.waves[int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))]
        start = int(rng.integers(max(1, len(wave) - samples + 1)))
        part = wave[start : start + samples] / np.float32(32768)
        if samples != size:
            part = soxr.resample(part, samples, size)[:size]
        clip = np.zeros(size, np.float32)
        clip[: len(part)] = part
        level = 10 ** (rng.uniform(-12, 3) / 20)
        return torch.from_numpy(clip * min(level, 1 / max(float(np.abs(clip).max()), 1e-3)))
