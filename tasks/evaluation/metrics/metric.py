"""The interface of all metrics, the sample that they measure, and the rules for degenerate audio. B batch, T samples.

All metrics treat degenerate audio alike:

- Audio without sound (`has_sound`) is scored as silence. An output of silence gets the worst value of the scale, so
  that a system does not gain from saying nothing.
- A score is undefined where its reference has no sound, or where the metric cannot measure the sample. An undefined
  score is missing, its name is listed under "undefined", and tables leave it out of the mean and count it.
- A wave that is too short for a model is repeated or padded with silence.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ....tokenizer.waveform import resample

RATE = 16000  # Hz, the input rate of all pretrained evaluation models

Scores = dict[str, Any]  # the values of a metric for one sample, by name
_PAUSE_S = 0.3  # windows are cut in the middle of the quietest stretch of this duration
UNDEFINED = "undefined"  # the key of the names of undefined scores

logger = logging.getLogger(__name__)


def has_sound(wave: np.ndarray) -> bool:
    """Return whether a wave (T,) is finite and not constant. An empty wave and a single sample have no sound."""
    with np.errstate(over="ignore"):
        samples = np.asarray(wave, np.float32)
    return len(samples) > 0 and bool(np.isfinite(samples).all()) and bool(samples.min() < samples.max())


def cut_at_pauses(wave: np.ndarray, window_s: float) -> list[slice]:
    """Cut a wave (T,) at `RATE` into windows, for models that read only a limited duration. Nothing is dropped.

    Args:
        wave: (T,).
        window_s: Longest duration of a window. A window ends at the quietest place in its second half.

    Returns:
        The places of the windows in the wave.
    """
    pause = round(_PAUSE_S * RATE)
    longest = round(window_s * RATE)
    windows = []
    start = 0
    while len(wave) - start > longest:
        energy = np.cumsum(np.square(wave[start + longest // 2 : start + longest], dtype=np.float64))
        quietest = int(np.argmin(energy[pause:] - energy[:-pause]))
        end = start + longest // 2 + quietest + pause // 2
        windows.append(slice(start, end))
        start = end
    return [*windows, slice(start, len(wave))]


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
        """Resample the audio to another rate in Hz. Returns (T',) float32, zeros if the audio has no sound."""
        return _resampled(self.audio, self.rate, rate)

    def pair(self, rate: int) -> tuple[np.ndarray, np.ndarray]:
        """Resample target and audio to another rate in Hz, and cut or pad the audio to the length of the target.

        Returns:
            Target and audio, (T',) float32 each; zeros where one has no sound.
        """
        assert self.target is not None
        target = _resampled(self.target, self.rate, rate)
        audio = self.at(rate)[: len(target)]
        return target, np.pad(audio, (0, len(target) - len(audio)))


def _resampled(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    samples = np.asarray(wave, np.float32) if has_sound(wave) else np.zeros(len(wave), np.float32)
    return resample(samples, from_rate, to_rate)


class Metric:
    """A metric. Its model is loaded when the first sample needs it.

    Subclasses set `name` and implement `checkpoint` and `measure`; some also restrict `accepts`.

    Attributes:
        name: Name of the metric in a record.
        score_names: Names of the scores that every accepted sample should get.
        limit: Measure only the first `limit` items, for slow metrics; 0 measures all.
    """

    name: ClassVar[str]
    score_names: ClassVar[tuple[str, ...]] = ()
    limit: int = 0

    @property
    def checkpoint(self) -> str:
        """Model and version, for the record. Only scores of the same checkpoint can be compared."""
        raise NotImplementedError

    def accepts(self, sample: EvalSample) -> bool:
        """Return whether the sample has everything that the metric needs."""
        return True

    def expected(self, sample: EvalSample) -> Sequence[str]:
        """Return the names of the scores of a sample. Those that `measure` does not give are undefined."""
        return self.score_names

    def load(self) -> None:
        """Load what the metric needs.

        Raises:
            ImportError: A package is not installed.
        """

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure samples that are all accepted. Batching must not change the scores."""
        raise NotImplementedError

    def __call__(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure each sample.

        Returns:
            The scores of each sample, with the names of undefined ones under "undefined"; {} for samples that the
            metric does not accept.

        Raises:
            ImportError: A package is not installed.
        """
        index = []
        accepted = []
        for i, sample in enumerate(samples):
            if self.accepts(sample):
                index.append(i)
                accepted.append(sample)
        scores: list[Scores] = [{} for _ in samples]
        if not accepted:
            return scores
        self.load()
        for i, measured in zip(index, self._measure_all(accepted), strict=True):
            for key, value in measured.items():
                if not isinstance(value, float) or math.isfinite(value):
                    scores[i][key] = value
            undefined = [key for key in self.expected(samples[i]) if key not in scores[i]]
            if undefined:
                scores[i][UNDEFINED] = undefined
        return scores

    def _measure_all(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure samples. One that raises an exception gets no scores, and does not affect the others."""
        try:
            return self.measure(samples)
        except ImportError:
            raise
        except Exception as error:
            if len(samples) == 1:
                seconds = len(samples[0].audio) / samples[0].rate
                logger.warning("%s is undefined for %.2f s of audio: %s", self.name, seconds, error)
                return [{}]
        scores: list[Scores] = []
        for sample in samples:
            scores += self._measure_all([sample])
        return scores


class CachedModel:
    """A model on waves that remembers its outputs by the content of the wave.

    Many systems share a target, and the speakers of a mixture share the mixture, so that most waves come repeatedly.

    Args:
        model: Waves (T,) at `RATE` -> one output each.
        output_of_silence: Output for a wave without sound, which the model never gets.
    """

    def __init__(self, model: Callable[[list[np.ndarray]], Sequence[Any]], output_of_silence: Any = None) -> None:
        self.model = model
        self.output_of_silence = output_of_silence
        self.outputs: dict[str, Any] = {}

    def __call__(self, waves: Sequence[np.ndarray], rates: Sequence[int]) -> list[Any]:
        """Return the outputs for waves (T,) at rates in Hz."""
        keys = []
        missing: dict[str, np.ndarray] = {}
        for wave, rate in zip(waves, rates, strict=True):
            key = f"{rate} {wave.dtype} {hashlib.sha256(wave.tobytes()).hexdigest()}"
            keys.append(key)
            if key in self.outputs:
                continue
            resampled = _resampled(wave, rate, RATE)
            if has_sound(resampled):
                missing[key] = resampled
            else:
                self.outputs[key] = self.output_of_silence
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
