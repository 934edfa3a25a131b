"""Anti-aliased multi-periodicity blocks (BigVGAN, Lee et al., 2022, arXiv 2206.04658), for the ablation.

B batch, T frames, D width. BigVGAN averages three such blocks of kernels 3, 7 and 11 at rates up to the waveform's;
here one stands at the frame rate in the place of focal modulation. The FocalCodec paper's sizes are not known; kernel 3
with dilations 1 and 3 makes a block as large as a focal one. Our choice too: no weight normalisation.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import Snake
from .masks import zero_padding
from .parts import AMPConfig
from .state import StreamState

_TAPS = 12  # of the filter around the activation


class AMPBlock(nn.Module):
    """One residual unit per dilation."""

    def __init__(self, config: AMPConfig, dim: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(AMPUnit(dim, config.kernel_size, dilation) for dilation in config.dilations)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        assert state is None, "an AMP block is not causal"
        for unit in self.units:
            x = unit(x, mask)
        return x


class AMPUnit(nn.Module):
    """Snake and a dilated convolution, Snake and a plain one; a residual around them."""

    def __init__(self, dim: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.first_activation, self.second_activation = Snake(dim), Snake(dim)
        self.first_conv = nn.Conv1d(dim, dim, kernel_size, dilation=dilation)
        self.second_conv = nn.Conv1d(dim, dim, kernel_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        y = _convolve(self.first_conv, without_aliases(self.first_activation, x, mask), mask)
        return x + _convolve(self.second_conv, without_aliases(self.second_activation, y, mask), mask)


def _convolve(conv: nn.Conv1d, x: Tensor, mask: Tensor | None) -> Tensor:
    width = (conv.kernel_size[0] - 1) * conv.dilation[0]
    return conv(F.pad(zero_padding(x, mask), (0, 0, width // 2, width - width // 2)).mT).mT


def without_aliases(activation: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply a non-linearity to (B, T, D) at twice the frame rate, so that harmonics are filtered out, not folded."""
    taps = low_pass().to(x).expand(x.shape[2], 1, _TAPS)
    pad = _TAPS // 2 - 1
    doubled = F.conv_transpose1d(zero_padding(x, mask).mT, 2 * taps, stride=2, padding=pad, groups=x.shape[2])
    doubled = activation(doubled.mT)  # (B, 2 T, D)
    if mask is not None:  # the filter rings on beyond an item's end
        doubled = zero_padding(doubled, mask.repeat_interleave(2, dim=1))
    return F.conv1d(doubled.mT, taps, stride=2, padding=pad, groups=x.shape[2]).mT


def low_pass() -> Tensor:
    """Half-band filter (12,) of sum 1: a sinc under a Kaiser window, transition 0.3 around 1/4 of the sampling rate."""
    attenuation = 2.285 * (_TAPS / 2 - 1) * math.pi * 1.2 + 7.95  # Kaiser's estimate in dB, as BigVGAN takes it
    window = torch.kaiser_window(_TAPS, periodic=False, beta=0.1102 * (attenuation - 8.7))
    taps = window * torch.sinc((torch.arange(_TAPS) - (_TAPS - 1) / 2) / 2)
    return taps / taps.sum()
