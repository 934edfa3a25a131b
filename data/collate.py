"""Examples of different lengths side by side. B batch, L length of the longest."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class PadCollator:
    """Pads `input_ids` and `labels` at the end; padding is not attended to and adds nothing to the loss."""

    def __init__(self, pad_id: int, ignored_label: int = -100) -> None:
        self.pad_id, self.ignored_label = pad_id, ignored_label

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """-> input_ids, labels, attention_mask, each (B, L)"""
        ids = [torch.as_tensor(example["input_ids"]) for example in examples]
        labels = [torch.as_tensor(example["labels"]) for example in examples]
        ones = [torch.ones_like(i) for i in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=self.ignored_label),
            "attention_mask": pad_sequence(ones, batch_first=True, padding_value=0),
        }
