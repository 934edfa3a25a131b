"""The decoder's backbone of WavTokenizer (Ji et al., 2024, arXiv 2408.16532): Vocos behind an attention block.

B batch, N frames, D width. Names of modules are those of the official checkpoints.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.decoders import ConvNeXtBlock
from ..focalcodec.parts import VocosConfig

_GROUPS = 32
_EPS = 1e-6


class AdaptiveVocos(nn.Module):
    """Features (B, input_dim, N) -> (B, N, dim), for `ISTFTHead`.

    Group norms and attention see the whole utterance: padding would change every frame.
    """

    def __init__(self, config: VocosConfig, num_conditions: int) -> None:
        super().__init__()
        dim = config.dim
        self.embed = nn.Conv1d(config.input_dim, dim, config.kernel_size, padding="same")
        blocks = [ResidualBlock(dim), ResidualBlock(dim), Attention(dim), ResidualBlock(dim), ResidualBlock(dim)]
        self.pos_net = nn.Sequential(*blocks, _group_norm(dim))
        self.norm = AdaptiveNorm(dim, num_conditions)
        self.convnext = nn.ModuleList(AdaptiveBlock(config, num_conditions) for _ in range(config.num_layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, features: Tensor) -> Tensor:
        """(B, input_dim, N) -> (B, N, dim)"""
        x = self.norm(self.pos_net(self.embed(features)).mT)
        for block in self.convnext:
            x = block(x, None, None)
        return self.final_layer_norm(x)


class ResidualBlock(nn.Module):
    """Two convolutions, each after a group norm and a swish, with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _group_norm(dim), nn.Conv1d(dim, dim, 3, padding=1)
        self.norm2, self.conv2 = _group_norm(dim), nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, N) -> (B, D, N)"""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """One head over all frames, without positions, with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = _group_norm(dim)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(dim, dim, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, N) -> (B, D, N)"""
        y = self.norm(x)
        y = F.scaled_dot_product_attention(self.q(y).mT, self.k(y).mT, self.v(y).mT)
        return x + self.proj_out(y.mT)


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift depend on a condition.

    The files hold a row for each of four bandwidths; every released use decodes with the first, and so does this.
    """

    def __init__(self, dim: int, num_conditions: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Embedding(num_conditions, dim), nn.Embedding(num_conditions, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        return F.layer_norm(x, x.shape[-1:], self.scale.weight[0], self.shift.weight[0], _EPS)


class AdaptiveBlock(ConvNeXtBlock):
    """A ConvNeXt block of Vocos with the adaptive norm."""

    def __init__(self, config: VocosConfig, num_conditions: int) -> None:
        super().__init__(config)
        self.norm = AdaptiveNorm(config.dim, num_conditions)  # type: ignore[assignment]  # instead of a LayerNorm


def _group_norm(dim: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, dim, eps=_EPS)
