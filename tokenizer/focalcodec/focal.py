"""Focal modulation (Yang et al., 2022, arXiv 2203.11926) in one dimension: FocalCodec's compressor and decompressor.

B batch, T frames, D width. A non-causal module honours `mask`; a causal one takes its left contexts from `state`.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import length_mask, zero_padding
from .parts import FocalConfig
from .precision import full_precision
from .state import StreamState
from .wavlm import FeedForward


class Compressor(nn.Module):
    """Features (B, T, input_dim) -> latents (B, N, output_dim), not yet normalised."""

    def __init__(self, config: FocalConfig) -> None:
        super().__init__()
        self.factors = config.factors
        dims = (config.input_dim, *config.hidden_dims)
        self.layers: Iterable[CompressorLayer] = nn.ModuleList(  # type: ignore[assignment]
            CompressorLayer(config, dims[i], dims[i + 1], factor) for i, factor in enumerate(config.factors)
        )
        self.out_proj = nn.Linear(dims[-1], config.output_dim)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Number of tokens for (B,) frames."""
        for factor in self.factors:
            lengths = -(-lengths // factor)
        return lengths

    @full_precision
    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """lengths (B,) in frames."""
        for layer in self.layers:
            x = layer.downscale(zero_padding(x, _mask(lengths, x)), state)
            lengths = None if lengths is None else -(-lengths // layer.downscale.factor)
            x = layer.focal_block(x, _mask(lengths, x), state)
        return self.out_proj(x)


class CompressorLayer(nn.Module):
    """Down-scaling, then focal modulation; called part by part, since the number of frames changes between them."""

    def __init__(self, config: FocalConfig, in_dim: int, dim: int, factor: int) -> None:
        super().__init__()
        self.downscale = DownScale(in_dim, dim, factor)
        self.focal_block = FocalBlock(config, dim, config.window_size)


class Decompressor(nn.Module):
    """Quantised codes (B, N, input_dim) -> features (B, T, output_dim)."""

    def __init__(self, config: FocalConfig) -> None:
        super().__init__()
        dims = (*config.hidden_dims, config.output_dim)
        windows = [config.window_size] * len(config.factors)
        windows[-1] = config.last_window_size or config.window_size
        self.in_proj = nn.Linear(config.input_dim, dims[0])
        self.layers: Iterable[DecompressorLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecompressorLayer(config, dims[i], dims[i + 1], factor, windows[i])
            for i, factor in enumerate(config.factors)
        )
        refined = config.causal and config.lookahead_size > 0
        self.refiner = Refiner(config.output_dim, config.lookahead_size + 1) if refined else None

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """lengths (B,) in tokens."""
        x = self.in_proj(x)
        for layer in self.layers:
            x = layer.upscale(layer.focal_block(x, _mask(lengths, x), state))
            lengths = None if lengths is None else lengths * layer.upscale.factor
        x = zero_padding(x, _mask(lengths, x))
        return x if self.refiner is None else self.refiner(x)


class DecompressorLayer(nn.Module):
    """Focal modulation, then up-scaling."""

    def __init__(self, config: FocalConfig, dim: int, out_dim: int, factor: int, window_size: int) -> None:
        super().__init__()
        self.focal_block = FocalBlock(config, dim, window_size)
        self.upscale = UpScale(dim, out_dim, factor)


class Refiner(nn.Module):
    """Residual MLP over each chunk of frames, flattened; calls begin on a chunk boundary."""

    def __init__(self, dim: int, chunk_size: int) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        self.in_proj = nn.Linear(dim * chunk_size, dim * chunk_size)
        self.out_proj = nn.Linear(dim * chunk_size, dim * chunk_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        B, T, D = x.shape
        chunks = F.pad(x, (0, 0, 0, -T % self.chunk_size)).reshape(B, -1, self.chunk_size * D)
        refined = self.out_proj(F.gelu(self.in_proj(chunks)))
        return x + refined.reshape(B, -1, D)[:, :T]


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel (Ziyin et al., 2020, arXiv 2006.08195)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        alpha = self.alpha[:, 0]
        return x + (alpha * x).sin().square() / (alpha + 1e-9)


class DownScale(nn.Module):
    """One output frame per `factor` frames, the last one completed with zeros; then Snake."""

    def __init__(self, in_dim: int, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downscale = nn.Conv1d(in_dim, dim, factor, factor)
        self.activation = Snake(dim)

    def forward(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(B, T, in_dim) -> (B, ceil(T / factor), dim)"""
        if state is None:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
        else:
            x = state.extend(self, x, self.factor - 1)
        return self.activation(self.downscale(x.mT).mT)


class UpScale(nn.Module):
    """Snake, then `factor` output frames per frame. They depend on that frame only, so streaming needs no context."""

    def __init__(self, dim: int, out_dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.activation = Snake(dim)
        self.upscale = nn.ConvTranspose1d(dim, out_dim, factor, factor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T * factor, out_dim)"""
        return self.upscale(self.activation(x).mT).mT


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

    def __init__(self, config: FocalConfig, dim: int, window_size: int) -> None:
        super().__init__()
        self.use_post_norm, self.layerscale_init = config.use_post_norm, config.layerscale_init
        self.modulation_norm = _norm(config, dim)
        self.modulation = FocalModulation(config, dim, window_size)
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

    def __init__(self, config: FocalConfig, dim: int, window_size: int) -> None:
        super().__init__()
        self.dim, self.levels = dim, config.focal_level
        self.causal, self.normalize = config.causal, config.normalize_modulator
        kernels = [config.focal_window + config.focal_factor * level for level in range(self.levels)]
        kernels += [window_size] if config.causal else []
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


def _mask(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    return None if lengths is None else length_mask(lengths, x.shape[1])


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real frames of each item: (B, T, D) -> (B, 1, D)."""
    if mask is None:
        return x.mean(dim=1, keepdim=True)
    return zero_padding(x, mask).sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None].clamp(min=1)
