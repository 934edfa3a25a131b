"""Conformer blocks (Gulati et al., 2020, arXiv 2005.08100) in the place of focal modulation, for the ablation.

B batch, T frames, D width, H heads. The FocalCodec paper's sizes are not known; expansion 1 makes a block as large as a
focal one. Our choice too: rotary positions (Su et al., 2021, arXiv 2104.09864) instead of Transformer-XL's, and
LayerNorm instead of batch normalisation, whose statistics would mix the items of a batch and count its padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import zero_padding
from .parts import ConformerConfig
from .state import StreamState


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, self-attention, convolution, the other half, each with a residual; then a norm."""

    def __init__(self, dim: int, hidden_dim: int, num_heads: int, kernel_size: int, rotary: bool = True) -> None:
        super().__init__()
        self.first_half = _feed_forward(dim, hidden_dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, rotary)
        self.convolution = ConvolutionModule(dim, kernel_size)
        self.second_half = _feed_forward(dim, hidden_dim)
        self.norm = nn.LayerNorm(dim)

    @classmethod
    def from_config(cls, config: ConformerConfig, dim: int) -> "ConformerBlock":
        """A block of FocalCodec's stacks."""
        return cls(dim, config.expansion * dim, config.num_heads, config.kernel_size)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        assert state is None, "a Conformer block is not causal"
        x = x + 0.5 * self.first_half(x)
        x = x + self.attention(self.attention_norm(x), mask)
        x = x + self.convolution(x, mask)
        return self.norm(x + 0.5 * self.second_half(x))


def _feed_forward(dim: int, hidden_dim: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, dim))


class SelfAttention(nn.Module):
    """Over the whole signal; with rotary positions, or with none of its own."""

    def __init__(self, dim: int, num_heads: int, rotary: bool) -> None:
        super().__init__()
        self.num_heads, self.rotary = num_heads, rotary
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); nothing attends to padding."""
        B, T, D = x.shape
        query, key, value = (p.view(B, T, self.num_heads, -1).transpose(1, 2) for p in self.qkv_proj(x).chunk(3, -1))
        visible = None if mask is None else mask[:, None, None]  # (B, 1, 1, T)
        if self.rotary:
            query, key = _rotate(query), _rotate(key)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.out_proj(attended.transpose(1, 2).reshape(B, T, D))


def _rotate(x: Tensor) -> Tensor:
    """Turn each pair of channels of (B, H, T, D / H) by an angle that grows with the frame's index."""
    T, half = x.shape[2], x.shape[3] // 2
    speeds = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(T, device=x.device)[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class ConvolutionModule(nn.Module):
    """Gated projection, depthwise convolution, projection."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.conv = nn.Conv1d(dim, dim, kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        x = zero_padding(F.glu(self.in_proj(self.input_norm(x))), mask)
        kernel = self.conv.kernel_size[0]
        x = self.conv(F.pad(x, (0, 0, (kernel - 1) // 2, kernel // 2)).mT).mT
        return self.out_proj(F.silu(self.norm(x)))
