"""Which positions of a padded batch are real. B batch, T positions."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, True where a position is inside its item."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of (B, T, D), so that a convolution sees what it sees at the end of a single item."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)


def mask_lengths(mask: Tensor, shape: torch.Size, name: str, of: str) -> Tensor:
    """(B, T) bool -> (B,) lengths, if every item has some and all padding stands at the end."""
    if mask.shape != shape:
        raise ValueError(f"{name} must have the shape of {of}, {tuple(shape)}, found {tuple(mask.shape)}")
    mask = mask.bool()
    lengths = mask.sum(dim=1)
    if int(lengths.min()) == 0:
        raise ValueError(
            f"{name} marks item {int(lengths.argmin())} as empty: every item needs at least one real position"
        )
    if not torch.equal(mask, length_mask(lengths, mask.shape[1])):
        raise ValueError(f"{name} must be True, then False, in every item: pad at the end (padding_side='right')")
    return lengths
