"""TAAE, the transformer autoencoder of Stable Codec (Parker et al., 2024, arXiv 2411.19842).

B batch, L frames at the rate of a block, D width of a block, H heads, C channels of a head. Convolutions take
(B, D, L), transformers (B, L, D). Keys are those of the official files; the weight normalization of convolutions is
folded when they are loaded.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import SnakeBeta, rotate, window_attention

_CONFORMER_KERNEL = 17
_DILATIONS = (1, 3, 9)


@dataclass(frozen=True)
class TAAEConfig:
    """Configuration of an encoder or decoder, with the names and defaults of the official config.

    Raises:
        ValueError: Fields that contradict each other.
    """

    channels: int = 128
    c_mults: tuple[int, ...] = (1, 2, 4, 8)  # width of each block, in `channels`
    strides: tuple[int, ...] = (2, 4, 8, 8)
    transformer_depths: tuple[int, ...] = (3, 3, 3, 3)
    sliding_window: tuple[int, int] = (63, 64)  # frames to the left and to the right that attention sees
    use_snake: bool = False
    use_dilated_conv: bool = False
    conformer: bool = False
    layer_scale: bool = True
    dim_heads: int = 128  # a constant in the official code
    soft_clip: bool = False  # decoder only: tanh at the end

    def __post_init__(self) -> None:
        if not len(self.c_mults) == len(self.strides) == len(self.transformer_depths) > 0:
            raise ValueError(
                "c_mults, strides and transformer_depths need one entry per block, found "
                f"{len(self.c_mults)}, {len(self.strides)} and {len(self.transformer_depths)}"
            )
        if any(width % self.dim_heads for width in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of dim_heads ({self.dim_heads})")
        for i, stride in enumerate(self.strides):
            before = self.widths[i]
            after = self.widths[i + 1]
            if stride % 2 and (stride > 1 or before != after):
                raise ValueError(
                    f"a block of stride {stride} from width {before} to {after} would not keep the number of frames: "
                    "strides must be even, or 1 where the width stays"
                )

    @property
    def widths(self) -> list[int]:
        """Width before each block of the encoder, and after the last block."""
        return [self.channels * mult for mult in (self.c_mults[0], *self.c_mults)]


class Encoder(nn.Module):
    """Patches (B, patch_size, L) -> latents (B, latent_dim, L / product of strides)."""

    def __init__(self, config: TAAEConfig, patch_size: int, latent_dim: int) -> None:
        super().__init__()
        widths = config.widths
        layers: list[nn.Module] = [nn.Conv1d(patch_size, widths[0], 7, padding=3)]
        for i, stride in enumerate(config.strides):
            layers.append(EncoderBlock(config, widths[i], widths[i + 1], stride, config.transformer_depths[i]))
        layers.append(SnakeBeta(widths[-1]) if config.use_snake else nn.Identity())
        layers.append(nn.Conv1d(widths[-1], latent_dim, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, patch_size, L) -> (B, latent_dim, L / product of strides)"""
        return self.layers(x)


class Decoder(nn.Module):
    """The mirror image: latents (B, latent_dim, L) -> patches (B, patch_size, L * product of strides)."""

    def __init__(self, config: TAAEConfig, patch_size: int, latent_dim: int) -> None:
        super().__init__()
        widths = config.widths
        layers: list[nn.Module] = [nn.Conv1d(latent_dim, widths[-1], 3, padding=1)]
        for i in reversed(range(len(config.strides))):
            stride = config.strides[i]
            layers.append(DecoderBlock(config, widths[i + 1], widths[i], stride, config.transformer_depths[i]))
        layers.append(SnakeBeta(widths[0]) if config.use_snake else nn.Identity())
        layers.append(nn.Conv1d(widths[0], patch_size, 7, padding=3, bias=False))
        if config.soft_clip:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, latent_dim, L) -> (B, patch_size, L * product of strides)"""
        return self.layers(x)


class EncoderBlock(nn.Module):
    """Downsampling, then transformers: (B, before, L) -> (B, after, L / stride)."""

    def __init__(self, config: TAAEConfig, before: int, after: int, stride: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if config.use_dilated_conv:
            layers.extend(ResidualUnit(config, before, dilation) for dilation in _DILATIONS)
        layers.append(SnakeBeta(before) if config.use_snake else nn.Identity())
        # A stride of 1 does not change the width either, see `TAAEConfig`.
        if stride == 1:
            layers.append(nn.Identity())
        else:
            layers.append(nn.Conv1d(before, after, 2 * stride, stride, math.ceil(stride / 2)))
        layers.append(_make_transformer(config, after, depth))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, L) -> (B, after, L / stride)"""
        return self.layers(x)


class DecoderBlock(nn.Module):
    """Transformers, then upsampling: (B, before, L) -> (B, after, L * stride)."""

    def __init__(self, config: TAAEConfig, before: int, after: int, stride: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_make_transformer(config, before, depth)]
        layers.append(SnakeBeta(before) if config.use_snake else nn.Identity())
        if stride == 1:
            layers.append(nn.Identity())
        else:
            layers.append(nn.ConvTranspose1d(before, after, 2 * stride, stride, math.ceil(stride / 2)))
        if config.use_dilated_conv:
            layers.extend(ResidualUnit(config, after, dilation) for dilation in _DILATIONS)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, L) -> (B, after, L * stride)"""
        return self.layers(x)


class ResidualUnit(nn.Module):
    """A dilated convolution over 7 frames and a pointwise one, each after an activation, with a residual connection."""

    def __init__(self, config: TAAEConfig, dim: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            SnakeBeta(dim) if config.use_snake else nn.ELU(),
            nn.Conv1d(dim, dim, 7, padding=3 * dilation, dilation=dilation),
            SnakeBeta(dim) if config.use_snake else nn.ELU(),
            nn.Conv1d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, L) -> (B, D, L)"""
        return x + self.layers(x)


class Transpose(nn.Module):
    """(B, X, Y) -> (B, Y, X)"""

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y) -> (B, Y, X)"""
        return x.mT


def _make_transformer(config: TAAEConfig, dim: int, depth: int) -> nn.Sequential:
    """Make a stack of transformer blocks that takes and gives (B, D, L)."""
    blocks = [TransformerBlock(config, dim) for _ in range(depth)]
    return nn.Sequential(Transpose(), *blocks, Transpose())


class TransformerBlock(nn.Module):
    """Attention, a convolution module if the config asks for one, and a feed-forward layer; pre-norm, layer scale."""

    def __init__(self, config: TAAEConfig, dim: int) -> None:
        super().__init__()
        scale = LayerScale if config.layer_scale else nn.Identity
        self.pre_norm = Norm(dim)
        self.self_attn = Attention(dim, config.dim_heads, config.sliding_window)
        self.self_attn_scale = scale(dim)
        if config.conformer:
            self.conformer = ConformerModule(dim)
            self.conformer_scale = scale(dim)
        self.ff_norm = Norm(dim)
        self.ff = FeedForward(dim)
        self.ff_scale = scale(dim)
        # Only half of a head's channels are rotated.
        self.rope = RotaryFrequencies(max(config.dim_heads // 2, 32))
        self.has_conformer = config.conformer

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        x = x + self.self_attn_scale(self.self_attn(self.pre_norm(x), self.rope.inv_freq))
        if self.has_conformer:
            x = x + self.conformer_scale(self.conformer(x))
        return x + self.ff_scale(self.ff(self.ff_norm(x)))


class Norm(nn.Module):
    """Layer norm with an epsilon of 1e-2."""

    beta: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        # The official files store it, but it was never trained.
        self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return F.layer_norm(x, self.gamma.shape, self.gamma, self.beta, eps=1e-2)


class LayerScale(nn.Module):
    """Multiply x with a gain per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return x * self.scale


class RotaryFrequencies(nn.Module):
    """Radians per frame of `size` / 2 pairs of channels, which official files store in every block."""

    inv_freq: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, size, 2) / size))


class Attention(nn.Module):
    """Self-attention within a window; queries and keys are normalized over the channels of a head, then rotated."""

    def __init__(self, dim: int, dim_heads: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = nn.LayerNorm(dim_heads, eps=1e-6)
        self.k_norm = nn.LayerNorm(dim_heads, eps=1e-6)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, inv_freq: Tensor) -> Tensor:
        """(B, L, D), inv_freq in radians per frame -> (B, L, D)"""
        qkv = self.to_qkv(x).unflatten(-1, (3, -1, self.q_norm.normalized_shape[0]))  # (B, L, 3, H, C)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, H, L, C) each
        q = rotate(self.q_norm(q), inv_freq)
        k = rotate(self.k_norm(k), inv_freq)
        return self.to_out(window_attention(q, k, v, *self.window).transpose(1, 2).flatten(2))


class GLU(nn.Module):
    """a * silu(g), both linear in x (Shazeer, 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., hidden)"""
        a, g = self.proj(x).chunk(2, dim=-1)
        return a * F.silu(g)


class FeedForward(nn.Module):
    """Feed-forward layer with a gate and a hidden width of 4 D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(GLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        return self.ff(x)


class ConformerModule(nn.Module):
    """The convolution module of a conformer (Gulati et al., 2020), with layer norms and no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_norm = Norm(dim)
        self.pointwise_conv = nn.Conv1d(dim, dim, 1, bias=False)
        self.glu = GLU(dim, dim)
        self.depthwise_conv = nn.Conv1d(
            dim, dim, _CONFORMER_KERNEL, padding=_CONFORMER_KERNEL // 2, groups=dim, bias=False
        )
        self.mid_norm = Norm(dim)
        self.pointwise_conv_2 = nn.Conv1d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        x = self.glu(self.pointwise_conv(self.in_norm(x).mT).mT)
        x = F.silu(self.mid_norm(self.depthwise_conv(x.mT).mT))
        return self.pointwise_conv_2(x.mT).mT
