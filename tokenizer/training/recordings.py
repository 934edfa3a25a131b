"""Recordings to draw from: in memory as 16-bit samples (115 MB an hour), or read from their files. T samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..audio import Waveform, read_audio, resample

_SHORTEST = 0.05  # seconds; shorter files are left out


@dataclass(frozen=True)
class InMemory:
    """A recording that was read once."""

    samples: NDArray[np.int16]  # (T,)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, start: int, size: int) -> Waveform:
        """Up to `size` samples from `start` on."""
        return self.samples[start : start + size].astype(np.float32) / np.float32(32768)


@dataclass(frozen=True)
class OnDisk:
    """A recording of which each clip is read when it is drawn."""

    path: Path
    frames: int  # in the file, at its own rate
    file_rate: int  # Hz
    sampling_rate: int  # Hz, what is read is resampled to

    def __len__(self) -> int:
        return self.frames * self.sampling_rate // self.file_rate

    def read(self, start: int, size: int) -> Waveform:
        """Up to `size` samples from `start` on."""
        first = start * self.file_rate // self.sampling_rate
        count = -(-size * self.file_rate // self.sampling_rate)
        data, _ = soundfile.read(self.path, count, first, dtype="float32", always_2d=True)
        return resample(data.mean(axis=1), self.file_rate, self.sampling_rate)[:size]


Recording = InMemory | OnDisk


def open_recordings(
    paths: Sequence[Path],
    sampling_rate: int,
    in_memory: bool = True,
    texts: Sequence[str] | None = None,
    progress: Callable[..., Any] | None = None,
) -> tuple[list[Recording], list[str]]:
    """-> the recordings of 50 ms and more, and their texts ("" without `texts`).

    Args:
        paths: audio files of any rate.
        sampling_rate: in Hz, what they are brought to.
        in_memory: read them now, or each clip when it is drawn.
        texts: what is said in each.
        progress: wraps the paths (a progress bar), for instance `tqdm.tqdm`.

    Raises:
        ValueError: all are shorter.
    """
    recordings, kept = [], []
    for path, text in zip(progress(paths) if progress else paths, texts or [""] * len(paths), strict=True):
        recording = _read(path, sampling_rate) if in_memory else _open(path, sampling_rate)
        if len(recording) >= _SHORTEST * sampling_rate:
            recordings.append(recording)
            kept.append(text)
    if not recordings:
        raise ValueError(f"none of the {len(paths)} audio files lasts 50 ms or more: is this the right corpus?")
    return recordings, kept


def _read(path: Path, sampling_rate: int) -> Recording:
    wave, _ = read_audio(path, sampling_rate)
    return InMemory((wave * 32767).round().astype(np.int16))


def _open(path: Path, sampling_rate: int) -> Recording:
    info = soundfile.info(path)
    return OnDisk(path, info.frames, info.samplerate, sampling_rate)
