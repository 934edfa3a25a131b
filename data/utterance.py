"""One utterance of a corpus: what is known about it, and how to read its audio."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

from ..tokenizer.audio import Waveform, load_audio, resample, to_mono_float

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class DatasetCell:
    """Audio inside a `datasets.Dataset`, fetched when it is needed and not kept."""

    dataset: "Dataset"
    index: int
    column: str

    def __str__(self) -> str:
        return f"row {self.index} of the dataset"

    def value(self) -> Any:
        """A path, or a dictionary of {"bytes", "path"} or {"array", "sampling_rate"}.

        Raises:
            ValueError: the cell is empty.
        """
        value = self.dataset[self.index][self.column]
        if value is None:
            raise ValueError(f"{self} holds no audio: leave it out")
        return value


@dataclass(frozen=True)
class Utterance:
    """A piece of speech.

    Args:
        id: unique within its corpus.
        audio: where the samples are.
        text: what is said.
        speaker: who says it.
        seconds: how long it lasts.
        extra: whatever else the corpus knows; becomes columns of a token store.
        sources: of a recording in noise or of several talkers, the same without: one each, as long as it is.
    """

    id: str
    audio: Path | DatasetCell
    text: str | None = None
    speaker: str | None = None
    seconds: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple["Utterance", ...] = ()

    def read(self, sampling_rate: int | None = None) -> tuple[Waveform, int]:
        """-> (T,) float32 mono, and its rate in Hz, which is `sampling_rate` if given.

        Raises:
            OSError, ValueError: the audio is missing, empty, damaged or not finite.
        """
        samples, rate = load_audio(self._value())
        if rate is None:
            raise ValueError(f"{self.audio} must hold a path, {{'bytes', 'path'}} or {{'array', 'sampling_rate'}}")
        wave = to_mono_float(samples)
        return (wave, rate) if sampling_rate is None else (resample(wave, rate, sampling_rate), sampling_rate)

    def duration(self) -> float | None:
        """Seconds as the corpus states them, or else as the file's header does; None if that cannot be read."""
        if self.seconds is not None:
            return self.seconds
        try:
            value = self._value()
            if isinstance(value, dict) and value.get("array") is not None:
                return len(to_mono_float(value["array"])) / value["sampling_rate"]
            if isinstance(value, dict):
                value = value["path"] if value.get("bytes") is None else io.BytesIO(value["bytes"])
            info = soundfile.info(value)
        except (OSError, ValueError, TypeError, KeyError, soundfile.LibsndfileError):
            return None
        return info.frames / info.samplerate

    def _value(self) -> Any:
        return self.audio if isinstance(self.audio, Path) else self.audio.value()
