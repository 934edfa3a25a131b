"""Fewer frames, and more again, with an activation. B batch, T frames."""

import torch.nn.functional as F
from torch import Tensor, nn

from .activations import ACTIVATIONS
from .state import StreamState


class DownScale(nn.Module):
    """One output frame per `factor` frames, the last one completed with zeros; then the activation."""

    def __init__(self, in_dim: int, dim: int, factor: int, activation: str) -> None:
        super().__init__()
        self.factor = factor
        self.downscale = nn.Conv1d(in_dim, dim, factor, factor)
        self.activation = ACTIVATIONS[activation](dim)

    def forward(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(B, T, in_dim) -> (B, ceil(T / factor), dim)"""
        if state is None:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
        else:
            x = state.extend(self, x, self.factor - 1)
        return self.activation(self.downscale(x.mT).mT)


class UpScale(nn.Module):
    """The activation, then `factor` output frames per frame, which depend on it only: streaming needs no context."""

    def __init__(self, dim: int, out_dim: int, factor: int, activation: str) -> None:
        super().__init__()
        self.factor = factor
        self.activation = ACTIVATIONS[activation](dim)
        self.upscale = nn.ConvTranspose1d(dim, out_dim, factor, factor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T * factor, out_dim)"""
        return self.upscale(self.activation(x).mT).mT
