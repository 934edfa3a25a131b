"""The recordings that a codec is trained on, in memory or read clip by clip. T samples."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import read_audio, read_header, read_part
from ..files import printable
from ..waveform import Waveform, resample, resample_input

logger = logging.getLogger(__name__)

_MIN_SECONDS = 0.05  # shorter recordings are left out


@dataclass(frozen=True)
class MemoryRecording:
    """A recording in memory, as 16-bit samples, clipped to full scale."""

    samples: NDArray[np.int16]  # (T,)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, start: int, size: int) -> Waveform:
        """Return up to `size` samples from `start` on."""
        return self.samples[start : start + size].astype(np.float32) / np.float32(32768)


@dataclass(frozen=True)
class FileRecording:
    """A recording whose clips are read from the file when they are drawn."""

    path: Path
    num_frames: int  # in the file, at its own rate
    file_rate: int  # Hz
    sampling_rate: int  # Hz, to which clips are resampled

    def __len__(self) -> int:
        return self.num_frames * self.sampling_rate // self.file_rate

    def read(self, start: int, size: int) -> Waveform:
        """Return up to `size` samples from `start` on, clipped to full scale; silence if the file is damaged there."""
        # Rounded down and up, so that the range covers the clip for any ratio of the rates.
        first = start * self.file_rate // self.sampling_rate
        count = -(-size * self.file_rate // self.sampling_rate)
        try:
            data = read_part(self.path, first, count)
        except (OSError, ValueError) as error:
            # A long training must not end at one of many files.
            logger.warning("%s gives a clip of silence: %s", printable(self.path), error)
            return np.zeros(size, np.float32)
        return _clip(resample(data, self.file_rate, self.sampling_rate)[:size])


Recording = MemoryRecording | FileRecording


def to_16_bits(wave: Waveform) -> NDArray[np.int16]:
    """Round (T,) to 16-bit samples, clipped to full scale."""
    return (_clip(wave) * 32767).round().astype(np.int16)


def _clip(wave: Waveform) -> Waveform:
    """Clip (T,) to full scale, beyond which 16-bit samples would wrap around."""
    return np.clip(wave, -1.0, 1.0)


def open_recordings(
    paths: Sequence[Path],
    sampling_rate: int,
    in_memory: bool = True,
    texts: Sequence[str] | None = None,
    progress: Callable[..., Any] | None = None,
) -> tuple[list[Recording], list[str]]:
    """Open all recordings of at least 50 ms. Files that cannot be read are logged and left out.

    Args:
        paths: audio files of any rate.
        sampling_rate: rate in Hz to which they are resampled.
        in_memory: whether to read all files now, or each clip when it is drawn.
        texts: transcript of each file.
        progress: function that wraps the paths in a progress bar, for instance `tqdm.tqdm`.

    Returns:
        The recordings and their transcripts, which are "" without `texts`.

    Raises:
        ValueError: No file can be read, or all recordings are shorter than 50 ms.
    """
    recordings = []
    kept_texts = []
    num_unreadable = 0
    texts = texts or [""] * len(paths)
    for path, text in zip(progress(paths) if progress else paths, texts, strict=True):
        try:
            recording = _open_recording(path, sampling_rate, in_memory)
        except (OSError, ValueError, MemoryError) as error:
            num_unreadable += 1
            logger.warning("left out %s: %s", printable(path), printable(str(error) or type(error).__name__))
            continue
        if len(recording) >= _MIN_SECONDS * sampling_rate:
            recordings.append(recording)
            kept_texts.append(text)
    if num_unreadable:
        logger.warning("%d of %d audio files cannot be read and are left out", num_unreadable, len(paths))
    if not recordings:
        raise ValueError(
            f"none of the {len(paths)} audio files lasts 50 ms or more; {num_unreadable} of them cannot be read: check "
            "that it is the right corpus"
        )
    return recordings, kept_texts


def _open_recording(path: Path, sampling_rate: int, in_memory: bool) -> Recording:
    if in_memory:
        wave, _ = read_audio(path, sampling_rate)
        return MemoryRecording(to_16_bits(wave))
    num_frames, file_rate = read_header(path)
    # A file whose header announces too much has no last sample. Resampling it checks the rate.
    resample_input(read_part(path, max(0, num_frames - 1), 1), file_rate, sampling_rate)
    return FileRecording(path, num_frames, file_rate, sampling_rate)
