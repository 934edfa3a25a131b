"""The interface of all metrics, and the sample that they measure. B batch, T samples."""

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

RATE = 16000  # Hz, the input rate of all pretrained evaluation models

Scores = dict[str, Any]  # the values of a metric for one sample, by name


@dataclass(frozen=True)
class EvalSample:
    """One piece of audio to evaluate.

    Args:
        audio: (T,) at `rate`.
        rate: Sampling rate in Hz.
        text: Reference transcript, or "" if there is none.
        target: (T,) reference audio at the same rate, or None.
        voices: Recordings (T,) at the same rate whose voice is compared with that of `audio`, by the name of the score.
        facts: Further values for the result of this sample, such as its duration.
    """

    audio: np.ndarray
    rate: int
    text: str = ""
    target: np.ndarray | None = None
    voices: dict[str, np.ndarray] = field(default_factory=dict)
    facts: Scores = field(default_factory=dict)

    def at(self, rate: int) -> np.ndarray:
        """Resample the audio to another rate in Hz. Returns (T',) float32."""
        return resample(np.asarray(self.audio, np.float32), self.rate, rate)

    def pair(self, rate: int) -> tuple[np.ndarray, np.ndarray]:
        """Resample target and audio to another rate in Hz, and cut the longer one. Returns (T',) and (T',) float32."""
        assert self.target is not None
        target = resample(np.asarray(self.target, np.float32), self.rate, rate)
        audio = self.at(rate)
        size = min(len(target), len(audio))
        return target[:size], audio[:size]


class Metric:
    """A metric. Its model is loaded when the first sample needs it.

    Subclasses set `name` and implement `checkpoint` and `measure`; some also restrict `accepts`.

    Attributes:
        name: Name of the metric in a record.
        limit: Measure only the first `limit` items, for slow metrics; 0 measures all.
    """

    name: ClassVar[str]
    limit: int = 0

    @property
    def checkpoint(self) -> str:
        """Model and version, for the record. Only scores of the same checkpoint can be compared."""
        raise NotImplementedError

    def accepts(self, sample: EvalSample) -> bool:
        """Return whether the sample has everything that the metric needs."""
        return len(sample.audio) > 0

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure samples that are all accepted. Batching must not change the scores."""
        raise NotImplementedError

    def __call__(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure each sample. Samples that the metric does not accept get no scores."""
        accepted = [sample for sample in samples if self.accepts(sample)]
        if not accepted:
            return [{} for _ in samples]
        measured = iter(self.measure(accepted))
        return [next(measured) if self.accepts(sample) else {} for sample in samples]


def run_by_length(model: Callable[[Tensor], Tensor], waves: Sequence[np.ndarray]) -> list[Tensor]:
    """Run a model (B, T) -> (B, ...) on waves (T,), in batches of equal length.

    Waves are not padded, because models such as wav2vec 2.0 normalize over time, so padding would change their output.
    """
    outputs: list[Any] = [None] * len(waves)
    for size in {len(wave) for wave in waves}:
        index = [i for i, wave in enumerate(waves) if len(wave) == size]
        stacked = np.stack([waves[i] for i in index])
        with torch.no_grad():
            batch = model(torch.from_numpy(stacked).to(device()))
        for i, output in zip(index, batch.float().cpu(), strict=True):
            outputs[i] = output
    return outputs


def device() -> str:
    """Return the device of the evaluation models."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache
def name_of(source: str) -> str:
    """Return a hub id unchanged, and for a folder its name with a hash of its weights."""
    folder = Path(source)
    weights = sorted([*folder.glob("*.bin"), *folder.glob("*.safetensors")])
    if not weights:
        return source
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return f"{folder.name} ({digest.hexdigest()[:8]})"


def version(package: str, install: str = "'focallm[eval]'") -> str:
    """Return name and version of an installed package.

    Args:
        package: Name of the package.
        install: Argument of `pip install` for the error message.

    Raises:
        ImportError: The package is not installed.
    """
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        raise ImportError(f"{package} is not installed: pip install {install}") from None
