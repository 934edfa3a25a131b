"""The dataset of a speech LM: rows of token stores, which templates turn into examples when they are read.

A row of the dataset holds one or more whole examples (packing). Shapes: L length of an example in ids.
"""

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
    repeat: int = 1  # how often every example comes per epoch


@dataclass
class DatasetStats:
    """Statistics of one source: the rows whose examples fit, and their lengths and targets."""

    lengths: list[int] = field(default_factory=list)  # in ids, of the kept rows
    kept_rows: list[int] = field(default_factory=list)  # their indices in the source
    num_too_long: int = 0
    target_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # by id

    @property
    def unigram_entropy(self) -> float:
        """Nats per target id of a model that has learned only how frequent each id is as a target of this task."""
        frequencies = self.target_counts[self.target_counts > 0] / max(self.target_counts.sum(), 1)
        return float((frequencies * np.log(1 / frequencies)).sum())


class ExampleDataset(Dataset):
    """Rows of one or more whole examples each, for `PackCollator`.

    The index of an item is `epoch * len(self) + row`, as `LengthGroupedSampler` yields it. All randomness of an example
    follows from the seed, the epoch and the example alone, so that an interrupted run can be continued.

    Args:
        sources: Rows of one or more tasks.
        vocabulary: The vocabulary of the model.
        max_length: Maximum length of a row in ids. Longer examples are left out and counted.
        packing: Put several examples into a row; without it each row has one.
        prompt_dropout: Share of examples whose input segments are emptied.
        seed: Seed of the choice of these examples and of the code noise.
        code_noise: Share of the input codes (not of the targets) that are exchanged for others of the same example and
            codebook. A model reads its own mistakes when it generates; noise makes it rely on the input instead.
        workers: Number of processes that measure the rows. One needs 6 s for an hour of speech with features.
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
        self.sources = tuple(sources)
        self.vocabulary = vocabulary
        self.prompt_dropout = prompt_dropout
        self.seed = seed
        self.code_noise = code_noise
        self.stats: list[DatasetStats] = []
        self.examples: list[tuple[int, int]] = []  # (index of the source, its row) of every example of an epoch
        self.lengths: list[int] = []  # of these examples, in ids
        for index, source in enumerate(self.sources):
            stats = _measure(source, vocabulary, max_length, workers)
            self.stats.append(stats)
            for _ in range(source.repeat):
                for row in stats.kept_rows:
                    self.examples.append((index, row))
                self.lengths += stats.lengths
        if packing:
            self.rows = pack(self.lengths, max_length)  # indices into `examples`
        else:
            self.rows = [[i] for i in range(len(self.examples))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> list[Example]:
        """Return the examples of one row."""
        epoch, row = divmod(item, len(self))
        return [self.example(index, epoch) for index in self.rows[row]]

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return one example as it is in an epoch."""
        source_index, row = self.examples[index]
        source = self.sources[source_index]
        rng = np.random.default_rng((self.seed, epoch, index))
        empty = rng.random() < self.prompt_dropout
        example = source.template.example(self.vocabulary, source.rows[row], empty=empty)
        if self.code_noise:
            example["input_ids"] = self._add_code_noise(example["input_ids"], rng)
        return example

    def _add_code_noise(self, ids: list[int], rng: np.random.Generator) -> list[int]:
        """Replace a share of the codes among ids (L,) by other codes of the same codebook in them."""
        noisy = np.array(ids)
        first = self.vocabulary.audio_offset
        for size in self.vocabulary.codebook_sizes:
            positions = np.flatnonzero((noisy >= first) & (noisy < first + size))
            replaced = positions[rng.random(len(positions)) < self.code_noise]
            noisy[replaced] = rng.permutation(noisy[positions])[: len(replaced)]
            first += size
        return noisy.tolist()

    @cached_property
    def row_lengths(self) -> list[int]:
        """Number of ids of every row."""
        lengths = []
        for row in self.rows:
            lengths.append(sum(map(self.lengths.__getitem__, row)))
        return lengths

    @property
    def unigram_entropy(self) -> float:
        """Unigram entropy of the targets in nats, where each task counts as often as it comes."""
        total = 0
        weighted_sum = 0.0
        for source, stats in zip(self.sources, self.stats, strict=True):
            num_targets = stats.target_counts.sum() * source.repeat
            total += num_targets
            weighted_sum += num_targets * stats.unigram_entropy
        return weighted_sum / total if total else math.nan


class _Labels(Dataset):
    """The labels (L,) of every row of a source."""

    def __init__(self, source: Source, vocabulary: Vocabulary) -> None:
        self.source = source
        self.vocabulary = vocabulary

    def __len__(self) -> int:
        return len(self.source.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        example = self.source.template.example(self.vocabulary, dict(self.source.rows[row]))
        return np.asarray(example["labels"])


def _measure(source: Source, vocabulary: Vocabulary, max_length: int, workers: int) -> DatasetStats:
    """Make every example of a source once, and count lengths and targets."""
    stats = DatasetStats(target_counts=np.zeros(len(vocabulary), np.int64))
    loader = DataLoader(_Labels(source, vocabulary), batch_size=None, num_workers=workers, collate_fn=_keep_array)
    for row, labels in enumerate(loader):
        if len(labels) > max_length:
            stats.num_too_long += 1
            continue
        # In a packed row, the id before an example belongs to another one and must not predict its first id.
        assert labels[0] == IGNORED
        stats.kept_rows.append(row)
        stats.lengths.append(len(labels))
        stats.target_counts += np.bincount(labels[labels >= 0], minlength=len(stats.target_counts))
    return stats


def _keep_array(labels: Any) -> Any:
    """Return an array as it is: workers pass arrays through a pipe, but each tensor through a shared-memory file."""
    return labels
