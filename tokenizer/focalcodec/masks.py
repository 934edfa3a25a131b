"""Which positions of a padded batch are real. B batch, T positions."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, True where a position is inside its item."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of (B, T, D), so that a convolution sees what it sees at the end of a single item."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)
