"""One utterance of a corpus, the files it is read from, and the audio that is made of it."""

import io
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tokenizer.audio import load_audio, read_header
from ..tokenizer.waveform import Waveform, resample_input, to_mono_float

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True)
class DatasetCell:
    """Audio inside a `datasets.Dataset`. It is loaded on demand and not kept in memory."""

    dataset: "Dataset"
    index: int
    column: str

    def __str__(self) -> str:
        return f"row {self.index} of the dataset"

    def value(self) -> Any:
        """Return a path, or a dictionary {"bytes", "path"} or {"array", "sampling_rate"}.

        Raises:
            ValueError: The cell is empty.
        """
        value = self.dataset[self.index][self.column]
        if value is None:
            raise ValueError(f"{self} holds no audio: leave it out")
        return value


@dataclass(frozen=True)
class Utterance:
    """A recording of speech and what is known about it.

    Args:
        id: unique within its corpus.
        audio: where the samples are.
        text: the transcript.
        speaker: who speaks.
        seconds: the duration.
        extra: all other columns of the corpus. They become columns of a token store.
        sources: the clean recordings that a noisy recording or a mixture was made of, each of the same length.
    """

    id: str
    audio: Path | DatasetCell
    text: str | None = None
    speaker: str | None = None
    seconds: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple["Utterance", ...] = ()

    def read(self, sampling_rate: int | None = None) -> tuple[Waveform, int]:
        """Read the audio.

        Args:
            sampling_rate: rate to resample to, in Hz. None keeps the rate of the recording.

        Returns:
            (T,) float32 mono audio, and its rate in Hz.

        Raises:
            OSError, ValueError: The audio is missing, empty, damaged or not finite.
        """
        samples, rate = load_audio(self._audio_value())
        if rate is None:
            raise ValueError(f"{self.audio} must hold a path, {{'bytes', 'path'}} or {{'array', 'sampling_rate'}}")
        wave = to_mono_float(samples)
        if sampling_rate is None:
            return wave, rate
        return resample_input(wave, rate, sampling_rate), sampling_rate

    def duration(self) -> float | None:
        """Return the duration in seconds, from the corpus or else from the file's header. None if it is unreadable."""
        if self.seconds is not None:
            return self.seconds
        try:
            value = self._audio_value()
            if isinstance(value, dict) and value.get("array") is not None:
                return len(to_mono_float(value["array"])) / value["sampling_rate"]
            if isinstance(value, dict):
                value = value["path"] if value.get("bytes") is None else io.BytesIO(value["bytes"])
            num_frames, rate = read_header(value)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return num_frames / rate

    def _audio_value(self) -> Any:
        return self.audio if isinstance(self.audio, Path) else self.audio.value()


@dataclass(frozen=True)
class AudioExample:
    """The audio of one row of a token store: clean speech and, if it was mixed, the input of a model.

    All signals have T samples.

    Args:
        utterance: id, text, speaker and extra columns of the row. They describe the target.
        target: (T,) clean speech, stored in the column `codes`.
        input_audio: (T,) the noisy, mixed or pitch-shifted speech from which a model restores the target. None if the
            speech was not mixed.
        others: (T,) each. The other speakers of a mixture, in the order in which they start to speak.
        columns: further columns of the row.
    """

    utterance: Utterance
    target: Waveform
    input_audio: Waveform | None = None
    others: tuple[Waveform, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signals(self) -> list[Waveform]:
        """All signals: the target, the input and the others."""
        if self.input_audio is None:
            return [self.target, *self.others]
        return [self.target, self.input_audio, *self.others]


def find_files(folder: Path) -> list[Path]:
    """Find everything below a folder. Linked folders are followed, but no folder is read twice, so that loops end.

    Args:
        folder: where to search.

    Returns:
        Sorted paths of files and folders.
    """
    found = []
    seen = set()
    waiting = deque([folder])
    while waiting:
        current = waiting.popleft()
        real = current.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except PermissionError as error:
            logger.warning("%s cannot be read (%s) and is left out: check its permissions", current, error.strerror)
            continue
        for entry in entries:
            path = current / entry.name
            found.append(path)
            # Links come last, so that a folder that also lies here itself keeps its own name.
            if entry.is_symlink():
                if path.is_dir():
                    waiting.append(path)
            elif entry.is_dir():
                waiting.appendleft(path)
    return sorted(found)


def find_audio(folder: Path, ending: str = "") -> list[Path]:
    """Find all audio files below a folder, as `find_files` does.

    Args:
        folder: where to search.
        ending: find only files whose names end with this; all audio files by default.

    Returns:
        Sorted paths.

    Raises:
        ValueError: There are none.
    """
    files = []
    for path in find_files(folder):
        is_audio = path.suffix.lower() in AUDIO_SUFFIXES and path.name.endswith(ending)
        if is_audio and not path.name.startswith("."):
            files.append(path)
    if not files:
        raise ValueError(
            f"no audio found in {folder} or below: looked for {ending or ', '.join(AUDIO_SUFFIXES)}. Convert other "
            "formats (M4A, video) first, or check the path"
        )
    return files


def read_text(path: Path) -> str | None:
    """Read a text file as one line. Returns None if there is no such file."""
    return " ".join(read_utf8(path).split()) if path.is_file() else None


def read_lines(path: Path) -> list[str]:
    r"""Read the lines of a text file, which end with \n, \r\n or \r.

    `str.splitlines` would also cut sentences at characters such as a form feed or U+2028.

    Raises:
        ValueError: The file is not UTF-8.
    """
    lines = read_utf8(path).split("\n")
    # What follows the last line end is a line only if it is not empty.
    return lines if lines[-1] else lines[:-1]


def read_utf8(path: Path) -> str:
    """Read a text file. All line ends become \\n.

    Raises:
        ValueError: The file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): convert it, for example with iconv") from None
