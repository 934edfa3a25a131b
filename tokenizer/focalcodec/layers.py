"""Layers and masks that several parts of FocalCodec share.

B batch, T frames, D feature width. Masks are (B, T) bool, True where a frame is real.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Decorates the forward of everything that leads to tokens. Tokens are the signs of small numbers, and PyTorch otherwise
# lets a GPU round the inputs of float32 convolutions to 10 bits (TF32): an error of 1e-3 that depends on the shape of
# the batch.
full_precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Turn lengths (B,) into a mask (B, size) that is True inside each item."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded frames of (B, T, D), so that a convolution sees what it sees at the end of a single item."""
    if mask is None:
        return x
    return x.masked_fill(~mask[..., None], 0.0)


def pad_same(x: Tensor, width: int) -> Tensor:
    """Pad (B, T, D) with `width` zero frames, half on either side, so that a convolution keeps the length."""
    return F.pad(x, (0, 0, width // 2, width - width // 2))


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, with one alpha per channel (Ziyin et al., 2020, arXiv 2006.08195)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        alpha = self.alpha[:, 0]
        return x + (alpha * x).sin().square() / (alpha + 1e-9)


def make_activation(name: str, dim: int) -> nn.Module:
    """Make the activation beside the scalings of a stack: "snake" or "leaky_relu"."""
    if name == "snake":
        return Snake(dim)
    assert name == "leaky_relu", "the config allows no other name"
    return nn.LeakyReLU(0.1)  # the slope of HiFi-GAN; the FocalCodec paper does not give its own


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, hidden_dim)
        self.out_proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)"""
        return self.out_proj(F.gelu(self.in_proj(x)))
