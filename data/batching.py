"""Training batches of examples: how to pack them into rows, in which order, and how to put rows side by side.

B is the number of rows in a batch, L the length of its longest row, M the number of feature frames of the batch and D
the width of a feature.
"""

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

# input_ids and labels, both (L,), and for some tasks features (N, D).
Example = dict[str, Any]

_IGNORED_LABEL = -100  # what torch leaves out of a cross-entropy
_BATCHES_PER_BUCKET = 50  # batches whose examples are sorted together


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack examples into rows of at most `capacity` ids, longest first, each into the row where it leaves least room.

    Best fit decreasing needs at most 11/9 of the smallest possible number of rows (Johnson, 1973), and hardly more than
    the smallest number for the lengths of a corpus. It is deterministic.

    Args:
        lengths: lengths of the examples, each at most `capacity`.
        capacity: length of a row in ids.

    Returns:
        The rows, each a list of indices into `lengths`.

    Raises:
        ValueError: An example is longer than a row.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"an example of {max(lengths)} ids fits in no row of {capacity}: leave it out first")
    rows: list[list[int]] = []
    # Rows by the space left in them. The sorted list of sizes finds the smallest one that suffices.
    sizes: list[int] = []
    rows_of_size: dict[int, list[int]] = {}
    for example in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        position = bisect_left(sizes, lengths[example])
        if position < len(sizes):
            size = sizes[position]
            row = rows_of_size[size].pop()
            if not rows_of_size[size]:
                del rows_of_size[sizes.pop(position)]
        else:
            size = capacity
            row = len(rows)
            rows.append([])
        rows[row].append(example)
        remaining = size - lengths[example]
        if remaining not in rows_of_size:
            insort(sizes, remaining)
            rows_of_size[remaining] = []
        rows_of_size[remaining].append(row)
    return rows


def packing_efficiency(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> float:
    """Return the share of positions that hold an id, if all rows are padded to the longest.

    Args:
        lengths: lengths of the examples.
        rows: indices of the examples in each row.
    """
    row_lengths = []
    for row in rows:
        row_lengths.append(sum(map(lengths.__getitem__, row)))
    return sum(row_lengths) / (len(row_lengths) * max(row_lengths))


class LengthGroupedSampler(Sampler[int]):
    """A random order in which neighbors have similar lengths, so that batches need little padding.

    The order is new in every epoch and depends only on the seed and the epoch, so a resumed run continues with the
    same one. (The length sampler of transformers draws from the global generator, whose state at the start of an epoch
    is not in a checkpoint.)

    It yields `epoch * len(self) + i` for row i; `divmod` recovers both. Random choices about a row can then depend on
    the epoch, too, regardless of the process that reads the row.

    Args:
        lengths: lengths of the rows in ids.
        batch_size: number of rows in a batch.
        seed: seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Call this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        for row in self._order():
            yield self.epoch * len(self) + row

    def _order(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        bucket_size = self.batch_size * _BATCHES_PER_BUCKET
        for start in range(0, len(order), bucket_size):
            bucket = order[start : start + bucket_size]
            bucket = bucket[np.argsort(-self.lengths[bucket], kind="stable")]
            batches = [bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)]
            # Only the last bucket can end with a short batch. It must come last, or it would shift all others.
            short_batch = batches.pop() if len(batches[-1]) < self.batch_size else bucket[:0]
            for i in rng.permutation(len(batches)):
                yield from batches[i].tolist()
            yield from short_batch.tolist()


class PackCollator:
    """Put rows side by side into one batch. Each row is a list of examples that do not attend to each other.

    The positions of every example start at 0. Where positions restart, transformers builds a block-diagonal mask for
    eager, sdpa and flex attention, but only without an attention mask and without a cache. So the batch has no mask and
    turns `use_cache` off (it is on in model configurations, and examples would silently attend to each other). Flash
    attention derives the boundaries from the positions, too, but only in batches of one row.

    Args:
        pad_id: id that fills rows after their last example. Padding has no loss, and no example attends to it.
        flat: concatenate all rows into one without padding (B is 1), as flash attention needs it.
    """

    def __init__(self, pad_id: int, flat: bool = False) -> None:
        self.pad_id = pad_id
        self.flat = flat

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, Any]:
        """Collate rows of examples.

        Returns:
            input_ids, labels and position_ids, each (B, L); use_cache; and features (M, D) in the order of the rows, if
            there are any.
        """
        if self.flat:
            rows = [list(itertools.chain.from_iterable(rows))]
        input_ids = []
        labels = []
        positions = []
        features = []
        for row in rows:
            row_ids: list[int] = []
            row_labels: list[int] = []
            row_positions: list[int] = []
            for example in row:
                row_ids.extend(example["input_ids"])
                row_labels.extend(example["labels"])
                row_positions.extend(range(len(example["input_ids"])))
                if "features" in example:
                    features.append(example["features"])
            input_ids.append(torch.tensor(row_ids))
            labels.append(torch.tensor(row_labels))
            positions.append(torch.tensor(row_positions))
        batch: dict[str, Any] = {
            "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=self.pad_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=_IGNORED_LABEL),
            "position_ids": pad_sequence(positions, batch_first=True),
            "use_cache": False,
        }
        if features:
            batch["features"] = torch.cat(features)
        return batch
