"""Rows of examples side by side. B rows, L length of the longest row, M features of the batch, D their width."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Example = dict[str, Any]  # input_ids and labels, both (L,); features (N, D) where the task has them


class PackCollator:
    """Makes one batch of rows, each a list of examples that stand one after the other and do not see each other.

    Every example's positions begin at 0. From positions that fall, transformers builds a block-diagonal mask for eager,
    sdpa and flex attention, but only where there is neither an attention mask nor a cache: so there is no mask in the
    batch, and `use_cache` is off (in the configuration it is on, and a cache would silently let examples see each
    other). Flash attention reads the boundaries off the positions too, but of a batch of one row only.

    Args:
        pad_id: what fills a row after its last example; nothing is learnt there, and no example looks there.
        flat: put all rows behind each other into one, without padding (B is 1), as flash attention needs it.
    """

    def __init__(self, pad_id: int, flat: bool = False) -> None:
        self.pad_id, self.flat = pad_id, flat

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, Any]:
        """-> input_ids, labels, position_ids, each (B, L); use_cache; features (M, D) in the order of the rows"""
        if self.flat:
            rows = [[example for row in rows for example in row]]
        batch: dict[str, Any] = {
            "input_ids": _side_by_side([_joined(row, "input_ids") for row in rows], self.pad_id),
            # What stands before an example must not be asked to predict the example's first id.
            "labels": _side_by_side([_joined(row, "labels") for row in rows], -100),
            "position_ids": pad_sequence([_positions(row) for row in rows], batch_first=True),
            "use_cache": False,
        }
        features = [example["features"] for row in rows for example in row if "features" in example]
        if features:
            batch["features"] = torch.cat(features)
        return batch


def _joined(row: Sequence[Example], key: str) -> Tensor:
    return torch.tensor([value for example in row for value in example[key]])


def _positions(row: Sequence[Example]) -> Tensor:
    return torch.cat([torch.arange(len(example["input_ids"])) for example in row])


def _side_by_side(rows: list[Tensor], filler: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=filler)
