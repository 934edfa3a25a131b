"""Focal modulation (Yang et al., 2022, arXiv 2203.11926) in one dimension: the block of FocalCodec's two stacks.

B batch, T frames, D width. A non-causal module honours `mask`; a causal one takes its left contexts from `state`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import zero_padding
from .parts import FocalConfig
from .state import StreamState
from .wavlm import FeedForward


class DynamicTanh(nn.Module):
    """tanh(alpha x) in place of a normalisation (Zhu et al., 2025, arXiv 2503.10622), without gain and bias."""

    def __init__(self, init: float) -> None:
        super().__init__()
        self.init = init
        self.alpha = nn.Parameter(torch.full((1,), init))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        return torch.tanh(self.alpha * x)


def _norm(config: FocalConfig, dim: int) -> nn.Module:
    return DynamicTanh(config.tanhscale_init) if config.causal else nn.LayerNorm(dim)


class FocalBlock(nn.Module):
    """Focal modulation and a feed-forward layer, each with a residual."""

    def __init__(self, config: FocalConfig, dim: int) -> None:
        super().__init__()
        self.use_post_norm, self.layerscale_init = config.use_post_norm, config.layerscale_init
        self.modulation_norm = _norm(config, dim)
        self.modulation = FocalModulation(config, dim)
        self.feed_forward_norm = _norm(config, dim)
        self.feed_forward = FeedForward(dim, 4 * dim)
        self.modulation_gamma = self.feed_forward_gamma = None
        if config.use_layerscale:
            self.modulation_gamma = nn.Parameter(torch.full((dim,), config.layerscale_init))
            self.feed_forward_gamma = nn.Parameter(torch.full((dim,), config.layerscale_init))

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        if self.use_post_norm:
            y = self.modulation_norm(self.modulation(x, mask, state))
        else:
            y = self.modulation(self.modulation_norm(x), mask, state)
        x = x + (y if self.modulation_gamma is None else self.modulation_gamma * y)
        if self.use_post_norm:
            y = self.feed_forward_norm(self.feed_forward(x))
        else:
            y = self.feed_forward(self.feed_forward_norm(x))
        return x + (y if self.feed_forward_gamma is None else self.feed_forward_gamma * y)


class FocalModulation(nn.Module):
    """A query modulated by gated contexts of growing width; the widest is the whole signal, or a long causal window."""

    def __init__(self, config: FocalConfig, dim: int) -> None:
        super().__init__()
        self.dim, self.levels = dim, config.focal_level
        self.causal, self.normalize = config.causal, config.normalize_modulator
        kernels = [config.focal_window + config.focal_factor * level for level in range(self.levels)]
        kernels += [config.window_size] if config.causal else []
        self.in_proj = nn.Linear(dim, 2 * dim + self.levels + 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=dim), nn.GELU()) for kernel in kernels
        )
        self.context_proj = nn.Conv1d(dim, dim, 1)
        self.norm = _norm(config, dim) if config.use_post_norm else None
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        query, context, gates = self.in_proj(x).split([self.dim, self.dim, self.levels + 1], dim=-1)
        mixed = torch.zeros_like(context)
        for level, layer in enumerate(self.layers):  # in a causal model the last one is the global level
            context = self._convolve(layer, context, mask, state)
            mixed = mixed + context * gates[..., level, None]
        if not self.causal:
            mixed = mixed + F.gelu(_mean(context, mask)) * gates[..., -1, None]
        if self.normalize:
            mixed = mixed / (self.levels + 1)
        modulated = query * self.context_proj(mixed.mT).mT
        return self.out_proj(modulated if self.norm is None else self.norm(modulated))

    def _convolve(self, layer: nn.Module, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        assert isinstance(layer, nn.Sequential)
        conv = layer[0]
        assert isinstance(conv, nn.Conv1d)
        kernel = conv.kernel_size[0]
        if self.causal:
            assert state is not None, "a causal focal block is called with a state"
            x = state.extend(layer, x, kernel - 1)
        else:
            x = F.pad(zero_padding(x, mask), (0, 0, (kernel - 1) // 2, kernel // 2))
        return layer(x.mT).mT


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real frames of each item: (B, T, D) -> (B, 1, D)."""
    if mask is None:
        return x.mean(dim=1, keepdim=True)
    return zero_padding(x, mask).sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None].clamp(min=1)
