"""The order of examples: random, but neighbours are of similar length, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_BATCHES = 50  # batches whose examples are sorted together


class LengthGroupedSampler(Sampler[int]):
    """A new order every epoch that follows from the seed and the epoch alone, so a resumed run sees the same one.

    It yields `epoch * len(self) + i` for row i (`divmod` undoes it), so that what is random about a row can follow from
    the epoch too, in whichever process it is read. The sampler that transformers has for lengths draws from the global
    generator, whose state at the beginning of an epoch is not in a checkpoint.

    Args:
        lengths: of the rows, in ids.
        batch_size: rows that will stand together.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """To be called before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return (self.epoch * len(self) + i for i in self._order())

    def _order(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        size = self.batch_size * _BATCHES
        for start in range(0, len(order), size):
            part = order[start : start + size]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches = [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
            last = batches.pop() if len(batches[-1]) < self.batch_size else part[:0]  # a short batch must come last
            for i in rng.permutation(len(batches)):
                yield from batches[i].tolist()
            yield from last.tolist()
