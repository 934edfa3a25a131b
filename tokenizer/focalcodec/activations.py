"""Activations beside the scalings of a stack. B batch, T frames, D width."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel (Ziyin et al., 2020, arXiv 2006.08195)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        alpha = self.alpha[:, 0]
        return x + (alpha * x).sin().square() / (alpha + 1e-9)


# By the name in the config, for D channels. The slope is that of HiFi-GAN; the paper does not tell its own.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {"snake": Snake, "leaky_relu": lambda dim: nn.LeakyReLU(0.1)}
