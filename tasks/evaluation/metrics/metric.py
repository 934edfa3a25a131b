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

from ....tokenizer.audio import resample

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
        index = []
        accepted = []
        for i, sample in enumerate(samples):
            if self.accepts(sample):
                index.append(i)
                accepted.append(sample)
        scores: list[Scores] = [{}] * len(samples)
        if accepted:
            for i, measured in zip(index, self.measure(accepted), strict=True):
                scores[i] = measured
        return scores


class CachedModel:
    """A model on waves that remembers its outputs by the content of the wave.

    Many systems share a target, and the speakers of a mixture share the mixture, so that most waves come repeatedly.

    Args:
        model: Waves (T,) at `RATE` -> one output each.
        output_of_empty: Output for a wave without samples, which the model never gets.
    """

    def __init__(self, model: Callable[[list[np.ndarray]], Sequence[Any]], output_of_empty: Any = None) -> None:
        self.model = model
        self.outputs: dict[str, Any] = {hashlib.sha256(b"").hexdigest(): output_of_empty}

    def __call__(self, waves: Sequence[np.ndarray], rates: Sequence[int]) -> list[Any]:
        """Return the outputs for waves (T,) at rates in Hz."""
        keys = []
        missing: dict[str, np.ndarray] = {}
        for wave, rate in zip(waves, rates, strict=True):
            key = hashlib.sha256(wave.tobytes()).hexdigest()
            keys.append(key)
            if key not in self.outputs:
                missing[key] = resample(np.asarray(wave, np.float32), rate, RATE)
        if missing:
            self.outputs.update(zip(missing, self.model(list(missing.values())), strict=True))
        return [self.outputs[key] for key in keys]


def run_by_length(model: Callable[[Tensor], Tensor], waves: Sequence[np.ndarray]) -> list[Tensor]:
    """Run a model (B, T) -> (B, ...) on waves (T,), in batches of equal length.

    Waves are not padded, because models such as wav2vec 2.0 normalize over time, so padding would change their output.
    """
    index_by_length: dict[int, list[int]] = {}
    for i, wave in enumerate(waves):
        index_by_length.setdefault(len(wave), []).append(i)
    outputs: list[Any] = [None] * len(waves)
    for index in index_by_length.values():
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
