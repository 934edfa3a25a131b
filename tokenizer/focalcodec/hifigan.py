"""HiFi-GAN's generator (Kong et al., 2020, arXiv 2010.05646) as a decoder, for the ablation.

B batch, T frames or samples, C channels, halved by each up-scaling. Without weight normalisation, our choice.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import length_mask
from .parts import HiFiGANConfig
from .state import StreamState

Padding = Literal["zeros", "reflect"]
_SLOPE = 0.1  # of the leaky ReLUs


class HiFiGAN(nn.Module):
    """Features (B, T, input_dim) -> waveform (B, T * hop_length) in [-1, 1]; inside, channels come before time.

    Args:
        config: its sizes.
        padding_mode: of the convolutions that keep the length, "zeros" or "reflect"; only zeros go with `lengths`.
        last_slope: of the leaky ReLU before the last convolution.
    """

    def __init__(self, config: HiFiGANConfig, padding_mode: Padding = "zeros", last_slope: float = _SLOPE) -> None:
        super().__init__()
        self.factors, self.last_slope = config.factors, last_slope
        dims = [config.channels // 2**i for i in range(len(config.factors) + 1)]
        self.in_conv = nn.Conv1d(config.input_dim, dims[0], 7, padding=3, padding_mode=padding_mode)
        self.upscales = nn.ModuleList(_upscale(dims[i], dims[i + 1], factor) for i, factor in enumerate(config.factors))
        self.fusions = nn.ModuleList(Fusion(config, dim, padding_mode) for dim in dims[1:])
        self.out_conv = nn.Conv1d(dims[-1], 1, 7, padding=3, padding_mode=padding_mode)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """lengths (B,) in frames."""
        assert state is None, "HiFi-GAN is not causal"
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        x = self.in_conv(_zero(x.mT, mask))
        for factor, upscale, fusion in zip(self.factors, self.upscales, self.fusions, strict=True):
            x = upscale(_zero(F.leaky_relu(x, _SLOPE), mask))
            mask = None if mask is None else mask.repeat_interleave(factor, dim=1)
            x = fusion(x, mask)
        return torch.tanh(self.out_conv(_zero(F.leaky_relu(x, self.last_slope), mask)))[:, 0]


class Fusion(nn.Module):
    """The mean of residual branches, one per kernel: patterns of several lengths at once."""

    def __init__(self, config: HiFiGANConfig, dim: int, padding_mode: Padding) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            Branch(dim, kernel, config.dilations, padding_mode) for kernel in config.kernel_sizes
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        return torch.stack([branch(x, mask) for branch in self.branches]).mean(dim=0)


class Branch(nn.Module):
    """For each dilation a dilated and a plain convolution, with a residual around the two."""

    def __init__(self, dim: int, kernel_size: int, dilations: tuple[int, ...], padding_mode: Padding) -> None:
        super().__init__()
        same: dict[str, Any] = {"padding": "same", "padding_mode": padding_mode}
        self.dilated = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size, dilation=d, **same) for d in dilations)
        self.plain = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size, **same) for _ in dilations)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            y = dilated(_zero(F.leaky_relu(x, _SLOPE), mask))
            x = x + plain(_zero(F.leaky_relu(y, _SLOPE), mask))
        return x


def _upscale(dim: int, out_dim: int, factor: int) -> nn.Module:
    """(B, dim, T) -> (B, out_dim, T * factor), each sample from two frames."""
    odd = factor % 2
    return nn.ConvTranspose1d(dim, out_dim, 2 * factor, factor, padding=(factor + odd) // 2, output_padding=odd)


def _zero(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padding of (B, C, T), so that a convolution sees what it sees at the end of a single item."""
    return x if mask is None else x.masked_fill(~mask[:, None], 0.0)
