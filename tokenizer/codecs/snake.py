"""The periodic activation of BigCodec and Stable Codec. B batch, C channels, T samples or frames."""

import torch
from torch import Tensor, nn


class SnakeBeta(nn.Module):
    """x + sin(a x)^2 / b with logarithms of a and b per channel (BigVGAN, Lee et al., 2022, arXiv 2206.04658)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + (x * alpha).sin().square() / (beta + 1e-9)
