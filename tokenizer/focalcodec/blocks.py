"""Blocks of FocalCodec's compressor and decompressor.

Every released model uses focal modulation. The Conformer, the anti-aliased multi-periodicity (AMP) and the linear block
replace it in the ablation of the paper (arXiv 2502.04465, table 6), which does not state their sizes. Ours make a block
as large as a focal one: Conformer blocks have expansion 1, and AMP blocks have kernel 3 and dilations 1 and 3. ConvNeXt
blocks are for small codecs: they have no global mean, and learn faster.

B batch, T frames, D width, H heads. Each block takes x (B, T, D), a mask (B, T) that is True where a frame is real, and
the state of a stream, which only causal focal and ConvNeXt blocks can use.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConvNeXtBlock, FeedForward, Snake, StreamState, convolve, convolve_same, pad_same, zero_padding
from .parts import AMPConfig, ConformerConfig, ConvNeXtConfig, FocalConfig, LinearConfig, StackConfig

_FILTER_TAPS = 12  # of the low-pass filter around the activation of an AMP block


class FocalBlock(nn.Module):
    """Focal modulation (Yang et al., 2022, arXiv 2203.11926) in one dimension and a feed-forward layer.

    Each of the two has a residual connection. A non-causal block uses the mask; a causal one takes the frames before a
    chunk from the state.
    """

    def __init__(self, config: FocalConfig, dim: int) -> None:
        super().__init__()
        self.use_post_norm = config.use_post_norm
        self.layerscale_init = config.layerscale_init
        self.modulation_norm = _make_norm(config, dim)
        self.modulation = FocalModulation(config, dim)
        self.feed_forward_norm = _make_norm(config, dim)
        self.feed_forward = FeedForward(dim, 4 * dim)
        self.modulation_gamma = None
        self.feed_forward_gamma = None
        if config.use_layerscale:
            self.modulation_gamma = nn.Parameter(torch.full((dim,), config.layerscale_init))
            self.feed_forward_gamma = nn.Parameter(torch.full((dim,), config.layerscale_init))

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) -> (B, T, D)"""
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
    """Modulates a query by gated contexts of growing width.

    The widest context is the mean of the whole signal, or a long window in a causal model.
    """

    def __init__(self, config: FocalConfig, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.levels = config.focal_level
        self.causal = config.causal
        self.normalize = config.normalize_modulator
        kernels = [config.focal_window + config.focal_factor * level for level in range(self.levels)]
        if config.causal:
            kernels.append(config.window_size)
        self.in_proj = nn.Linear(dim, 2 * dim + self.levels + 1)
        self.layers = nn.ModuleList()
        for kernel in kernels:
            self.layers.append(nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=dim), nn.GELU()))
        self.context_proj = nn.Conv1d(dim, dim, 1)
        self.norm = _make_norm(config, dim) if config.use_post_norm else None
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) -> (B, T, D)"""
        query, context, gates = self.in_proj(x).split([self.dim, self.dim, self.levels + 1], dim=-1)
        modulator = torch.zeros_like(context)
        # In a causal model the last layer is the global level.
        for level, layer in enumerate(self.layers):
            context = self._convolve(layer, context, mask, state)
            modulator = modulator + context * gates[..., level, None]
        if not self.causal:
            modulator = modulator + F.gelu(_masked_mean(context, mask)) * gates[..., -1, None]
        if self.normalize:
            modulator = modulator / (self.levels + 1)
        modulated = query * convolve(self.context_proj, modulator)
        if self.norm is not None:
            modulated = self.norm(modulated)
        return self.out_proj(modulated)

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
            x = pad_same(zero_padding(x, mask), kernel - 1)
        return layer[1](convolve(conv, x))


class DynamicTanh(nn.Module):
    """tanh(alpha x) in the place of a norm (Zhu et al., 2025, arXiv 2503.10622), without gain and bias."""

    def __init__(self, init: float) -> None:
        super().__init__()
        self.init = init
        self.alpha = nn.Parameter(torch.full((1,), init))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        return torch.tanh(self.alpha * x)


def _make_norm(config: FocalConfig, dim: int) -> nn.Module:
    if config.causal:
        return DynamicTanh(config.tanhscale_init)
    return nn.LayerNorm(dim)


def _masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Average the real frames of each item: (B, T, D) -> (B, 1, D)."""
    if mask is None:
        return x.mean(dim=1, keepdim=True)
    counts = mask.sum(dim=1)[:, None, None].clamp(min=1)
    return zero_padding(x, mask).sum(dim=1, keepdim=True) / counts


class ConformerBlock(nn.Module):
    """Conformer block (Gulati et al., 2020, arXiv 2005.08100).

    Half a feed-forward layer, self-attention, convolution and the other half, each with a residual; then a norm. Two
    details differ from the paper: rotary positions (Su et al., 2021, arXiv 2104.09864) replace those of Transformer-XL,
    and LayerNorm replaces batch normalization, whose statistics would mix the items of a batch and include its padding.
    """

    def __init__(self, dim: int, hidden_dim: int, num_heads: int, kernel_size: int, rotary: bool = True) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim ({dim}) is not a multiple of num_heads ({num_heads})")
        self.first_half = _make_feed_forward(dim, hidden_dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, rotary)
        self.convolution = ConvolutionModule(dim, kernel_size)
        self.second_half = _make_feed_forward(dim, hidden_dim)
        self.norm = nn.LayerNorm(dim)

    @classmethod
    def from_config(cls, config: ConformerConfig, dim: int) -> "ConformerBlock":
        """Make a block of a compressor or decompressor."""
        return cls(dim, config.expansion * dim, config.num_heads, config.kernel_size)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) -> (B, T, D)"""
        assert state is None, "a Conformer block is not causal"
        x = x + 0.5 * self.first_half(x)
        x = x + self.attention(self.attention_norm(x), mask)
        x = x + self.convolution(x, mask)
        return self.norm(x + 0.5 * self.second_half(x))


def _make_feed_forward(dim: int, hidden_dim: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, dim))


class SelfAttention(nn.Module):
    """Self-attention over the whole signal, with rotary positions or with none."""

    def __init__(self, dim: int, num_heads: int, rotary: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.rotary = rotary
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); no frame attends to padding."""
        B, T, D = x.shape
        heads = self.qkv_proj(x).view(B, T, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        if self.rotary:
            query = _rotate(query)
            key = _rotate(key)
        visible = None if mask is None else mask[:, None, None]  # (B, 1, 1, T)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.out_proj(attended.transpose(1, 2).reshape(B, T, D))


def _rotate(x: Tensor) -> Tensor:
    """Rotate each pair of channels of (B, H, T, D / H) by an angle proportional to the index of the frame."""
    T = x.shape[2]
    half = x.shape[3] // 2
    speeds = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(T, device=x.device)[:, None] * speeds
    cos = angles.cos().to(x.dtype)
    sin = angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


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
        x = self.conv(pad_same(x, self.conv.kernel_size[0] - 1).mT).mT
        return self.out_proj(F.silu(self.norm(x)))


class AMPBlock(nn.Module):
    """Anti-aliased multi-periodicity block (BigVGAN, Lee et al., 2022, arXiv 2206.04658).

    BigVGAN averages three such blocks of kernels 3, 7 and 11 at rates up to that of the waveform. Here a single one
    runs at the frame rate, without weight normalization.
    """

    def __init__(self, config: AMPConfig, dim: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(AMPUnit(dim, config.kernel_size, dilation) for dilation in config.dilations)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) -> (B, T, D)"""
        assert state is None, "an AMP block is not causal"
        for unit in self.units:
            x = unit(x, mask)
        return x


class AMPUnit(nn.Module):
    """Snake and a dilated convolution, then Snake and a plain one, with a residual connection around all of them."""

    def __init__(self, dim: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.first_activation = Snake(dim)
        self.second_activation = Snake(dim)
        self.first_conv = nn.Conv1d(dim, dim, kernel_size, dilation=dilation)
        self.second_conv = nn.Conv1d(dim, dim, kernel_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        y = convolve_same(self.first_conv, without_aliases(self.first_activation, x, mask), mask, None)
        return x + convolve_same(self.second_conv, without_aliases(self.second_activation, y, mask), mask, None)


def without_aliases(activation: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply an activation to (B, T, D) at twice the frame rate, so that new harmonics do not cause aliasing."""
    # Upsampling by two inserts zeros, which halve the level, so the taps are doubled.
    taps = low_pass().to(x).expand(x.shape[2], 1, _FILTER_TAPS)
    pad = _FILTER_TAPS // 2 - 1
    doubled = F.conv_transpose1d(zero_padding(x, mask).mT, 2 * taps, stride=2, padding=pad, groups=x.shape[2])
    doubled = activation(doubled.mT)  # (B, 2 T, D)
    if mask is not None:
        # The filter rings beyond the end of an item.
        doubled = zero_padding(doubled, mask.repeat_interleave(2, dim=1))
    return F.conv1d(doubled.mT, taps, stride=2, padding=pad, groups=x.shape[2]).mT


def low_pass() -> Tensor:
    """Compute a half-band filter (12,) of sum 1.

    It is a sinc under a Kaiser window, with a transition of 0.3 around a quarter of the sampling rate.
    """
    # Kaiser's estimate of the attenuation in dB, as in BigVGAN.
    attenuation = 2.285 * (_FILTER_TAPS / 2 - 1) * math.pi * 1.2 + 7.95
    window = torch.kaiser_window(_FILTER_TAPS, periodic=False, beta=0.1102 * (attenuation - 8.7))
    taps = window * torch.sinc((torch.arange(_FILTER_TAPS) - (_FILTER_TAPS - 1) / 2) / 2)
    return taps / taps.sum()


class ConvNeXtBlocks(nn.Module):
    """The ConvNeXt blocks of a layer. The causal form sees only frames of the past."""

    def __init__(self, config: ConvNeXtConfig, dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, config.expansion * dim, config.kernel_size, 1 / config.depth)
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) -> (B, T, D)"""
        for block in self.blocks:
            x = block(x, mask, state)
        return x


class LinearBlock(nn.Module):
    """A projection of each frame, as the baseline of a block without context."""

    def __init__(self, config: LinearConfig, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        return self.proj(x)


BLOCKS: dict[type[StackConfig], Callable[..., nn.Module]] = {
    FocalConfig: FocalBlock,
    ConformerConfig: ConformerBlock.from_config,
    AMPConfig: AMPBlock,
    ConvNeXtConfig: ConvNeXtBlocks,
    LinearConfig: LinearBlock,
}
