"""What every metric has in common. B batch, T samples."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .sample import Line, Sound

RATE = 16000  # Hz, what the models that judge listen at


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

    def fits(self, sound: Sound) -> bool:
        """Whether a sound has what it takes to be judged."""
        return len(sound.audio) > 0

    def measure(self, sounds: Sequence[Sound]) -> list[Line]:
        """What is measured of each of these sounds, which all fit."""
        raise NotImplementedError

    def __call__(self, sounds: Sequence[Sound]) -> list[Line]:
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
