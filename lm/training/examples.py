"""What is learnt from: rows of token stores, made into examples by templates when they are asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ...data.batching import Example, pack
from ..templates import IGNORED, Template
from ..vocabulary import Vocabulary


@dataclass(frozen=True)
class Source:
    """Rows of one task; `rows[i]` is a mapping with the columns that the template needs."""

    template: Template
    rows: Any  # a datasets.Dataset, or any sequence of mappings
    repeat: int = 1  # times per epoch


@dataclass
class DatasetStats:
    """What one source holds: lengths of the examples that fit, and what was found while they were measured."""

    lengths: list[int] = field(default_factory=list)  # in ids, of the kept rows
    kept: list[int] = field(default_factory=list)  # their places in the source
    too_long: int = 0
    label_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # by id

    @property
    def entropy(self) -> float:
        """Nats per target id of a model that knows only how frequent each id is as a target of this task."""
        share = self.label_counts[self.label_counts > 0] / max(self.label_counts.sum(), 1)
        return float(-(share * np.log(share)).sum())


class Examples(Dataset):
    """Rows of one or more whole examples each, for `PackCollator`.

    An item is asked for as `epoch * len(self) + row`, as `LengthGroupedSampler` does; what is random about an example
    follows from the seed, the epoch and the example alone.

    Args:
        sources: of one or more tasks.
        vocabulary: of the model.
        max_length: of a row, in ids; longer examples are left out and counted.
        packing: fill the rows; without it every example has its own.
        prompt_dropout: share of examples that come with emptied givens.
        seed: of the choice of these, and of the codes to exchange.
        code_noise: share of the codes read (not of the targets) that are exchanged for others of the same example and
            codebook: a model that writes reads its own mistakes, and should listen to what is given instead.
        workers: processes that measure the rows; an hour of speech with features takes one of them 6 s.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        vocabulary: Vocabulary,
        max_length: int,
        packing: bool = True,
        prompt_dropout: float = 0.0,
        seed: int = 0,
        code_noise: float = 0.0,
        workers: int = 0,
    ) -> None:
        self.sources, self.vocabulary = tuple(sources), vocabulary
        self.prompt_dropout, self.seed, self.code_noise = prompt_dropout, seed, code_noise
        self.stats = [_count(source, vocabulary, max_length, workers) for source in self.sources]
        self.members = [  # (source, place in it) of every example of an epoch
            (number, place)
            for number, (source, stats) in enumerate(zip(self.sources, self.stats, strict=True))
            for _ in range(source.repeat)
            for place in stats.kept
        ]
        self.lengths = [
            length
            for source, stats in zip(self.sources, self.stats, strict=True)
            for length in stats.lengths * source.repeat
        ]
        self.rows = pack(self.lengths, max_length) if packing else [[i] for i in range(len(self.members))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> list[Example]:
        """-> the examples of one row"""
        epoch, row = divmod(item, len(self))
        return [self.example(member, epoch) for member in self.rows[row]]

    def example(self, member: int, epoch: int = 0) -> Example:
        """One example as it comes in an epoch."""
        number, place = self.members[member]
        source = self.sources[number]
        rng = np.random.default_rng((self.seed, epoch, member))
        example = source.template.example(self.vocabulary, source.rows[place], empty=rng.random() < self.prompt_dropout)
        if self.code_noise:
            example["input_ids"] = self._exchanged(example["input_ids"], rng)
        return example

    def _exchanged(self, ids: list[int], rng: np.random.Generator) -> list[int]:
        """(L,) with a share of the codes in the places of others of their codebook."""
        read, first = np.array(ids), self.vocabulary.audio_offset
        for size in self.vocabulary.codebook_sizes:
            at = np.flatnonzero((read >= first) & (read < first + size))
            picked = at[rng.random(len(at)) < self.code_noise]
            read[picked] = rng.permutation(read[at])[: len(picked)]
            first += size
        return read.tolist()

    @cached_property
    def row_lengths(self) -> list[int]:
        """Ids of every row."""
        return [sum(self.lengths[member] for member in row) for row in self.rows]

    @property
    def entropy(self) -> float:
        """Unigram entropy of the targets in nats, over the tasks as often as they come."""
        weights = [c.label_counts.sum() * s.repeat for s, c in zip(self.sources, self.stats, strict=True)]
        total = sum(weights)
        return sum(w * c.entropy for w, c in zip(weights, self.stats, strict=True)) / total if total else math.nan


class _Labels(Dataset):
    """The labels (L,) of every row of a source."""

    def __init__(self, source: Source, vocabulary: Vocabulary) -> None:
        self.source, self.vocabulary = source, vocabulary

    def __len__(self) -> int:
        return len(self.source.rows)

    def __getitem__(self, place: int) -> np.ndarray:
        return np.asarray(self.source.template.example(self.vocabulary, dict(self.source.rows[place]))["labels"])


def _count(source: Source, vocabulary: Vocabulary, max_length: int, workers: int) -> DatasetStats:
    """Make every example once, to know its length and its labels."""
    stats = DatasetStats(label_counts=np.zeros(len(vocabulary), np.int64))
    every = DataLoader(_Labels(source, vocabulary), batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    for place, labels in enumerate(every):
        if len(labels) > max_length:
            stats.too_long += 1
            continue
        assert labels[0] == IGNORED  # in a pack, something else stands before the first id
        stats.kept.append(place)
        stats.lengths.append(len(labels))
        stats.label_counts += np.bincount(labels[labels >= 0], minlength=len(stats.label_counts))
    return stats


def _as_it_is(labels: Any) -> Any:
    """An array travels from a worker through its pipe; a tensor, through a file of shared memory each."""
    return labels
