"""Batches of clips. What a batch holds depends on the seed and the step only, so a resumed run hears the same.

B batch, T samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..audio import Waveform, resample
from .augmentation import augment, speed_factor
from .config import CodecTrainingConfig
from .recordings import Recording


@dataclass(frozen=True)
class Batch:
    """Signals at the rate that a codec hears and at the rate that it speaks."""

    heard: Tensor  # (B, T) at the input rate
    spoken: Tensor  # (B, T') at the output rate
    lengths: Tensor  # (B,) samples of `heard` that are real
    texts: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        tensors = {name: getattr(self, name).to(device) for name in ("heard", "spoken", "lengths")}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Rates:
    """Sampling rates in Hz, and the number of input samples that a clip is a multiple of."""

    heard: int = 16000
    spoken: int = 16000
    multiple: int = 320


class Clips(Dataset):
    """Item i is the batch of step i, or the share of it that falls to this process.

    Clips are drawn anywhere in the corpus, long recordings more often, short ones padded with zeros. Whole utterances
    (`recipe.seconds` 0) come once an epoch, in batches of similar length.

    Args:
        recordings: at the rate `rates.spoken`.
        recipe: sizes and augmentation.
        rates: of the codec.
        texts: what is said in each recording.
        process, processes: this one's number, and how many there are.

    Raises:
        ValueError: the batch cannot be shared evenly, or no utterance is short enough.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        recipe: CodecTrainingConfig,
        rates: Rates,
        texts: Sequence[str] | None = None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if recipe.batch_size % processes:
            raise ValueError(f"batch_size ({recipe.batch_size}) is not a multiple of the {processes} processes")
        self.recipe, self.rates = recipe, rates
        texts = texts or [""] * len(recordings)
        limit = np.inf if recipe.seconds else recipe.max_seconds * rates.spoken
        kept = [i for i, recording in enumerate(recordings) if len(recording) <= limit]
        if not kept:
            raise ValueError(f"no utterance is as short as max_seconds ({recipe.max_seconds})")
        self.recordings, self.texts = [recordings[i] for i in kept], [texts[i] for i in kept]
        self._sizes = np.array([len(recording) for recording in self.recordings])
        self._ends = np.cumsum(self._sizes)
        share = recipe.batch_size // processes
        self._items = range(process * share, (process + 1) * share)
        self._order: tuple[int, np.ndarray] = (-1, np.array([]))

    @property
    def seconds(self) -> float:
        """Duration of all recordings together."""
        return float(self._ends[-1]) / self.rates.spoken

    @property
    def epoch_steps(self) -> int:
        """Steps in which as much is heard as there is."""
        size = self.recipe.batch_size
        if self.recipe.seconds:
            return max(1, round(self.seconds / (size * self.recipe.seconds)))
        return max(1, len(self.recordings) // size)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        clips, texts = [], []
        for item in self._items:
            rng = np.random.default_rng([self.recipe.seed, step, item])
            clip, text = self._clip(rng) if self.recipe.seconds else self._utterance(step, item, rng)
            clips.append(augment(clip, self.rates.spoken, rng, self.recipe.tilt_db, self.recipe.rooms))
            texts.append(text)
        return make_batch(clips, self.rates, tuple(texts))

    def _clip(self, rng: np.random.Generator) -> tuple[Waveform, str]:
        """A part of a recording; its text is not known."""
        heard = round(self.recipe.seconds * self.rates.heard / self.rates.multiple) * self.rates.multiple
        size = heard * self.rates.spoken // self.rates.heard
        recording = self.recordings[int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))]
        factor = speed_factor(rng, self.recipe.speed)
        samples = round(size * factor)
        part = _played(recording, int(rng.integers(max(1, len(recording) - samples + 1))), samples, factor)[:size]
        return np.pad(part, (0, size - len(part))), ""

    def _utterance(self, step: int, item: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        epoch, place = divmod(step, self.epoch_steps)
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffle(epoch))
        index = int(self._order[1][place, item])
        factor = speed_factor(rng, self.recipe.speed)
        return _played(self.recordings[index], 0, int(self._sizes[index]), factor), self.texts[index]

    def _shuffle(self, epoch: int) -> np.ndarray:
        """-> (epoch_steps, batch_size) indices: each row of similar length, the rows in any order"""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        by_length = np.argsort(self._sizes * rng.uniform(0.9, 1.1, len(self._sizes)), kind="stable")
        # Where the corpus is no multiple of the batch, each epoch leaves others out.
        wanted = self.epoch_steps * self.recipe.batch_size
        first = int(rng.integers(max(1, len(by_length) - wanted + 1)))
        rows = np.resize(by_length[first:], wanted).reshape(self.epoch_steps, -1)
        return rng.permutation(rows)


def make_batch(clips: Sequence[Waveform], rates: Rates, texts: tuple[str, ...] = ()) -> Batch:
    """Signals at the rate `rates.spoken`, padded with zeros to the longest."""
    heard = [resample(clip, rates.spoken, rates.heard) for clip in clips]
    lengths = torch.tensor([len(wave) for wave in heard])
    return Batch(_pad(heard), _pad(clips), lengths, texts)


def _pad(waves: Sequence[Waveform]) -> Tensor:
    size = max(len(wave) for wave in waves)
    return torch.from_numpy(np.stack([np.pad(wave, (0, size - len(wave))) for wave in waves]))


def _played(recording: Recording, start: int, samples: int, factor: float) -> Waveform:
    """A part of a recording, `factor` times as fast."""
    part = recording.read(start, samples)
    return part if factor == 1 else soxr.resample(part, factor, 1.0).astype(np.float32, copy=False)
