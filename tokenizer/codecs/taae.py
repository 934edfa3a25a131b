"""TAAE, the transformer autoencoder of Stable Codec (Parker et al., 2024, arXiv 2411.19842).

B batch, L frames at the rate of a block, D width of a block. Convolutions take (B, D, L), transformers (B, L, D). Keys
are those of the official files, with the weight norm of the convolutions folded in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .snake import SnakeBeta
from .window_attention import rotate, window_attention

_CONFORMER_KERNEL = 17
_DILATIONS = (1, 3, 9)


@dataclass(frozen=True)
class TAAEConfig:
    """Encoder or decoder; names and defaults of the official config."""

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
        for stride, before, after in zip(self.strides, self.widths, self.widths[1:], strict=False):
            if stride % 2 and (stride > 1 or before != after):
                raise ValueError(
                    f"a block of stride {stride} from width {before} to {after} would not keep the number of frames: "
                    "strides must be even, or 1 where the width stays"
                )

    @property
    def widths(self) -> list[int]:
        """Width before each block of the encoder, and after the last."""
        return [self.channels * mult for mult in (self.c_mults[0], *self.c_mults)]


class Encoder(nn.Module):
    """Patches (B, patch_size, L) -> latents (B, latent_dim, L / product of strides)."""

    def __init__(self, config: TAAEConfig, patch_size: int, latent_dim: int) -> None:
        super().__init__()
        widths = config.widths
        blocks = [
            EncoderBlock(config, widths[i], widths[i + 1], config.strides[i], config.transformer_depths[i])
            for i in range(len(config.strides))
        ]
        first = nn.Conv1d(patch_size, widths[0], 7, padding=3)
        last = nn.Conv1d(widths[-1], latent_dim, 3, padding=1)
        self.layers = nn.Sequential(first, *blocks, _activation(config, widths[-1], nn.Identity), last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, patch_size, L) -> (B, latent_dim, L / product of strides)"""
        return self.layers(x)


class Decoder(nn.Module):
    """The mirror image: latents (B, latent_dim, L) -> patches (B, patch_size, L * product of strides)."""

    def __init__(self, config: TAAEConfig, patch_size: int, latent_dim: int) -> None:
        super().__init__()
        widths = config.widths
        blocks = [
            DecoderBlock(config, widths[i + 1], widths[i], config.strides[i], config.transformer_depths[i])
            for i in reversed(range(len(config.strides)))
        ]
        first = nn.Conv1d(latent_dim, widths[-1], 3, padding=1)
        last = nn.Conv1d(widths[0], patch_size, 7, padding=3, bias=False)
        end = [nn.Tanh()] if config.soft_clip else []
        self.layers = nn.Sequential(first, *blocks, _activation(config, widths[0], nn.Identity), last, *end)

    def forward(self, x: Tensor) -> Tensor:
        """(B, latent_dim, L) -> (B, patch_size, L * product of strides)"""
        return self.layers(x)


class EncoderBlock(nn.Module):
    """Downsampling, then transformers: (B, before, L) -> (B, after, L / stride)."""

    def __init__(self, config: TAAEConfig, before: int, after: int, stride: int, depth: int) -> None:
        super().__init__()
        units = [ResidualUnit(config, before, d) for d in _DILATIONS] if config.use_dilated_conv else []
        down = nn.Identity() if stride == 1 else nn.Conv1d(before, after, 2 * stride, stride, math.ceil(stride / 2))
        act = _activation(config, before, nn.Identity)
        self.layers = nn.Sequential(*units, act, down, _stack(config, after, depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, L) -> (B, after, L / stride)"""
        return self.layers(x)


class DecoderBlock(nn.Module):
    """Transformers, then upsampling: (B, before, L) -> (B, after, L * stride)."""

    def __init__(self, config: TAAEConfig, before: int, after: int, stride: int, depth: int) -> None:
        super().__init__()
        units = [ResidualUnit(config, after, d) for d in _DILATIONS] if config.use_dilated_conv else []
        up = (
            nn.Identity()
            if stride == 1
            else nn.ConvTranspose1d(before, after, 2 * stride, stride, math.ceil(stride / 2))
        )
        self.layers = nn.Sequential(_stack(config, before, depth), _activation(config, before, nn.Identity), up, *units)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, L) -> (B, after, L * stride)"""
        return self.layers(x)


class ResidualUnit(nn.Module):
    """x + a dilated convolution over 7 frames and one over 1, each after an activation."""

    def __init__(self, config: TAAEConfig, dim: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _activation(config, dim, nn.ELU),
            nn.Conv1d(dim, dim, 7, padding=3 * dilation, dilation=dilation),
            _activation(config, dim, nn.ELU),
            nn.Conv1d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, L) -> (B, D, L)"""
        return x + self.layers(x)


def _activation(config: TAAEConfig, dim: int, otherwise: Callable[[], nn.Module]) -> nn.Module:
    return SnakeBeta(dim) if config.use_snake else otherwise()


class Transpose(nn.Module):
    """(B, X, Y) -> (B, Y, X)"""

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y) -> (B, Y, X)"""
        return x.mT


def _stack(config: TAAEConfig, dim: int, depth: int) -> nn.Sequential:
    return nn.Sequential(Transpose(), *[TransformerBlock(config, dim) for _ in range(depth)], Transpose())


class TransformerBlock(nn.Module):
    """Attention, a convolution module where the config asks for one, feed-forward; pre-norm, with layer scale."""

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
        self.rope = RotaryFrequencies(max(config.dim_heads // 2, 32))
        self.has_conformer = config.conformer

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        x = x + self.self_attn_scale(self.self_attn(self.pre_norm(x), self.rope.inv_freq))
        if self.has_conformer:
            x = x + self.conformer_scale(self.conformer(x))
        return x + self.ff_scale(self.ff(self.ff_norm(x)))


class Norm(nn.Module):
    """Layer norm with the epsilon 1e-2; `beta` is stored in the official files but was never trained."""

    beta: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return F.layer_norm(x, self.gamma.shape, self.gamma, self.beta, eps=1e-2)


class LayerScale(nn.Module):
    """x times a gain per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return x * self.scale


class RotaryFrequencies(nn.Module):
    """Radians per frame of `size` / 2 pairs of channels; official files store them in every block."""

    inv_freq: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, size, 2) / size))


class Attention(nn.Module):
    """Self-attention within a window; queries and keys are normalised over the channels of a head, then rotated."""

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
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = rotate(self.q_norm(q), inv_freq), rotate(self.k_norm(k), inv_freq)
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
    """Gated, 4 D wide."""

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
