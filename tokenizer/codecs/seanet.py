"""SEANet (Tagliasacchi et al., 2020, arXiv 2009.02095) in the form of EnCodec (Defossez et al., 2022).

Convolutions with an LSTM at the frame rate; not causal, without its weight normalisation, which loading folds.
B batch, T samples, N frames, C channels, D width. Names of modules are those of the official checkpoints.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNEL = 7  # of the first and the last convolution
_LSTM_LAYERS = 2


class SEANetEncoder(nn.Module):
    """Waveform (B, 1, T) -> features (B, D, N), N = ceil(T / product of strides).

    Args:
        channels: after the first convolution; each stride doubles them.
        strides: in the order of the encoder.
        dim: D.
        bidirectional: whether the LSTM reads in both directions; its output then has twice the channels.
    """

    def __init__(self, channels: int, strides: Sequence[int], dim: int, bidirectional: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(1, channels, _KERNEL)]
        for stride in strides:
            layers += [ResidualBlock(channels), nn.ELU(), Conv(channels, 2 * channels, 2 * stride, stride)]
            channels *= 2
        layers += [RecurrentBlock(channels, bidirectional), nn.ELU()]
        layers += [Conv(channels * (2 if bidirectional else 1), dim, _KERNEL)]
        self.model = nn.Sequential(*layers)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> (B, D, N)"""
        return self.model(waveform)


class SEANetDecoder(nn.Module):
    """Features (B, D, N) -> waveform (B, 1, N * product of strides); the mirror image of `SEANetEncoder`.

    Args: those of the encoder. The LSTM always reads forwards.
    """

    def __init__(self, channels: int, strides: Sequence[int], dim: int) -> None:
        super().__init__()
        channels *= 2 ** len(strides)
        layers: list[nn.Module] = [Conv(dim, channels, _KERNEL), RecurrentBlock(channels)]
        for stride in reversed(strides):
            layers += [nn.ELU(), ConvTranspose(channels, channels // 2, stride), ResidualBlock(channels // 2)]
            channels //= 2
        layers += [nn.ELU(), Conv(channels, 1, _KERNEL)]
        self.model = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, N) -> (B, 1, T)"""
        return self.model(features)


class Conv(nn.Module):
    """Convolution of a reflected signal, (B, C, T) -> (B, C', ceil(T / stride))."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({"conv": nn.Conv1d(in_channels, out_channels, kernel_size, stride)})
        self.padding, self.stride = kernel_size - stride, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', ceil(T / stride)); the right side also completes the last stride."""
        right = self.padding // 2
        return self.conv["conv"](_reflect(x, self.padding - right, right + -x.shape[-1] % self.stride))


class ConvTranspose(nn.Module):
    """Up-scaling by a stride with a kernel of twice that, (B, C, T) -> (B, C', T * stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.convtr = nn.ModuleDict({"convtr": nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride)})
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', T * stride); of an odd stride, the left side loses the odd sample."""
        right = self.stride // 2
        return self.convtr["convtr"](x)[..., self.stride - right : -right or None]


class ResidualBlock(nn.Module):
    """A narrow branch beside a pointwise shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 2
        self.block = nn.Sequential(nn.ELU(), Conv(channels, narrow, 3), nn.ELU(), Conv(narrow, channels, 1))
        self.shortcut = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        return self.shortcut(x) + self.block(x)


class RecurrentBlock(nn.Module):
    """An LSTM with a residual; in both directions its input is added to the output of each."""

    def __init__(self, channels: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, _LSTM_LAYERS, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N), or (B, 2 C, N) in both directions"""
        y = self.lstm(x.mT)[0].mT
        return y + (torch.cat([x, x], dim=1) if self.lstm.bidirectional else x)


def _reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Mirror (B, C, T) at its ends without repeating the last sample.

    A signal too short to be mirrored is first extended by zeros, and shortened by as many afterwards.
    """
    extra = max(0, max(left, right) + 1 - x.shape[-1])
    return F.pad(F.pad(x, (0, extra)), (left, right), mode="reflect")[..., : -extra or None]
