"""What every metric has in common, and the samples that metrics take. B batch, T samples."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ....tokenizer import resample

RATE = 16000  # Hz, what the models that judge listen at


Scores = dict[str, Any]  # what a metric measured of one sample, by key


@dataclass(frozen=True)
class EvalSample:
    """What is judged.

    Args:
        audio: (T,) at `rate` Hz.
        text: what it is to say.
        target: (T,) at the same rate, what it is to sound like.
        voices: key of a line -> (T,) at the same rate, a recording whose voice is compared with that of the sound.
        facts: what else its line is to hold.
    """

    audio: np.ndarray
    rate: int
    text: str = ""
    target: np.ndarray | None = None
    voices: dict[str, np.ndarray] = field(default_factory=dict)
    facts: Scores = field(default_factory=dict)

    def at(self, rate: int) -> np.ndarray:
        """The audio (T',) float32 at another rate in Hz."""
        return resample(np.asarray(self.audio, np.float32), self.rate, rate)

    def pair(self, rate: int) -> tuple[np.ndarray, np.ndarray]:
        """The target and the audio (T',) float32 at another rate in Hz; what one lasts longer is cut."""
        assert self.target is not None
        target, audio = (resample(np.asarray(wave, np.float32), self.rate, rate) for wave in (self.target, self.audio))
        size = min(len(target), len(audio))
        return target[:size], audio[:size]


class Metric:
    """A judge of sounds, whose model is loaded when the first sound needs it.

    Attributes:
        name: what its judge is called in a record.
        limit: judge the first items only, since it is slow; 0 for all.
    """

    name: ClassVar[str]
    limit: int = 0

    @property
    def checkpoint(self) -> str:
        """Which model of which version judges: figures of the same one can be compared."""
        raise NotImplementedError

    def fits(self, sound: EvalSample) -> bool:
        """Whether a sound has what it takes to be judged."""
        return len(sound.audio) > 0

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """What is measured of each of these sounds, which all fit."""
        raise NotImplementedError

    def __call__(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """What is measured of each sound: the same as of each alone; nothing of those that do not fit."""
        fitting = [sound for sound in sounds if self.fits(sound)]
        lines = iter(self.measure(fitting) if fitting else [])
        return [next(lines) if self.fits(sound) else {} for sound in sounds]


def by_length(model: Callable[[Tensor], Tensor], waves: Sequence[np.ndarray]) -> list[Tensor]:
    """What a model (B, T) -> (B, ...) says of each wave (T,), in batches of one length.

    Nothing is padded: wav2vec 2.0 and its like normalise over time, and would hear the padding.
    """
    answers: list[Any] = [None] * len(waves)
    for size in {len(wave) for wave in waves}:
        index = [i for i, wave in enumerate(waves) if len(wave) == size]
        with torch.no_grad():
            batch = model(torch.from_numpy(np.stack([waves[i] for i in index])).to(device()))
        for i, answer in zip(index, batch.float().cpu(), strict=True):
            answers[i] = answer
    return answers


def device() -> str:
    """Where models listen."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache
def name_of(source: str) -> str:
    """A hub id as it is; of a folder its name and a hash of the weights in it."""
    weights = sorted(path for kind in ("*.bin", "*.safetensors") for path in Path(source).glob(kind))
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return f"{Path(source).name} ({digest.hexdigest()[:8]})" if weights else source


def version(package: str, install: str = "'focallm[eval]'") -> str:
    """Name and version of an installed package, for a checkpoint; `install` is what pip would have to.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        raise ImportError(f"{package} is not installed: pip install {install}") from None


Scores = dict[str, Any]  # what is known of one sound, by key


@dataclass(frozen=True)
class EvalSample:
    """What is judged.

    Args:
        audio: (T,) at `rate` Hz.
        text: what it is to say.
        target: (T,) at the same rate, what it is to sound like.
        voices: key of a line -> (T,) at the same rate, a recording whose voice is compared with that of the sound.
        facts: what else its line is to hold.
    """

    audio: np.ndarray
    rate: int
    text: str = ""
    target: np.ndarray | None = None
    voices: dict[str, np.ndarray] = field(default_factory=dict)
    facts: Scores = field(default_factory=dict)

    def at(self, rate: int) -> np.ndarray:
        """The audio (T',) float32 at another rate in Hz."""
        return resample(np.asarray(self.audio, np.float32), self.rate, rate)

    def pair(self, rate: int) -> tuple[np.ndarray, np.ndarray]:
        """The target and the audio (T',) float32 at another rate in Hz; what one lasts longer is cut."""
        assert self.target is not None
        target, audio = (resample(np.asarray(wave, np.float32), self.rate, rate) for wave in (self.target, self.audio))
        size = min(len(target), len(audio))
        return target[:size], audio[:size]
