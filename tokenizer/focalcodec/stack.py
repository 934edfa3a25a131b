"""FocalCodec's compressor and decompressor: stacks of layers, each with one block and one scaling.

B batch, T frames, N token frames. The class of the config selects the block (see `blocks`).
"""

import dataclasses
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BLOCKS
from .layers import StreamState, convolve, full_precision, length_mask, make_activation, zero_padding
from .parts import FocalConfig, StackConfig


class Compressor(nn.Module):
    """Features (B, T, input_dim) -> latents (B, N, output_dim), not yet normalized."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.factors = config.factors
        dims = (config.input_dim, *config.hidden_dims)
        self.layers: Iterable[CompressorLayer] = nn.ModuleList(  # type: ignore[assignment]
            CompressorLayer(config, dims[i], dims[i + 1], factor) for i, factor in enumerate(config.factors)
        )
        self.out_proj = nn.Linear(dims[-1], config.output_dim)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Compute the number of tokens for (B,) frames."""
        for factor in self.factors:
            lengths = -(-lengths // factor)
        return lengths

    @full_precision
    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """x (B, T, input_dim), lengths (B,) in frames -> (B, N, output_dim)"""
        for layer in self.layers:
            x = layer.downscale(zero_padding(x, _mask(lengths, x)), state)
            if lengths is not None:
                lengths = -(-lengths // layer.downscale.factor)
            x = layer.focal_block(x, _mask(lengths, x), state)
        return self.out_proj(x)


class CompressorLayer(nn.Module):
    """Downscaling, then the block. The compressor calls both, because the number of frames changes between them."""

    def __init__(self, config: StackConfig, in_dim: int, dim: int, factor: int) -> None:
        super().__init__()
        self.downscale = DownScale(in_dim, dim, factor, config.activation)
        # A block of any kind; its name comes from the released checkpoints.
        self.focal_block = BLOCKS[type(config)](config, dim)


class Decompressor(nn.Module):
    """Quantized codes (B, N, input_dim) -> features (B, T, output_dim)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        dims = (*config.hidden_dims, config.output_dim)
        configs = [config] * len(config.factors)
        self.refiner = None
        if isinstance(config, FocalConfig) and config.causal:
            # The last layer runs at the highest frame rate and may have another window size.
            configs[-1] = dataclasses.replace(config, window_size=config.last_window_size or config.window_size)
            if config.lookahead_size > 0:
                self.refiner = Refiner(config.output_dim, config.lookahead_size + 1)
        self.in_proj = nn.Linear(config.input_dim, dims[0])
        self.layers: Iterable[DecompressorLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecompressorLayer(configs[i], dims[i], dims[i + 1], factor) for i, factor in enumerate(config.factors)
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """x (B, N, input_dim), lengths (B,) in tokens -> (B, T, output_dim)"""
        x = self.in_proj(x)
        for layer in self.layers:
            x = layer.upscale(layer.focal_block(x, _mask(lengths, x), state))
            if lengths is not None:
                lengths = lengths * layer.upscale.factor
        x = zero_padding(x, _mask(lengths, x))
        return x if self.refiner is None else self.refiner(x)


class DecompressorLayer(nn.Module):
    """The block, then upscaling."""

    def __init__(self, config: StackConfig, dim: int, out_dim: int, factor: int) -> None:
        super().__init__()
        self.focal_block = BLOCKS[type(config)](config, dim)
        self.upscale = UpScale(dim, out_dim, factor, config.activation)


class Refiner(nn.Module):
    """Residual MLP over each flattened chunk of frames. Every call must begin at the boundary of a chunk."""

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


class DownScale(nn.Module):
    """Strided convolution from `factor` frames to one, padded with zeros at the end; then the activation."""

    def __init__(self, in_dim: int, dim: int, factor: int, activation: str) -> None:
        super().__init__()
        self.factor = factor
        self.downscale = nn.Conv1d(in_dim, dim, factor, factor)
        self.activation = make_activation(activation, dim)

    def forward(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(B, T, in_dim) -> (B, ceil(T / factor), dim)"""
        if state is None:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
        else:
            x = state.extend(self, x, self.factor - 1)
        return self.activation(convolve(self.downscale, x))


class UpScale(nn.Module):
    """The activation, then `factor` output frames from each frame alone, so that streaming needs no context."""

    def __init__(self, dim: int, out_dim: int, factor: int, activation: str) -> None:
        super().__init__()
        self.factor = factor
        self.activation = make_activation(activation, dim)
        self.upscale = nn.ConvTranspose1d(dim, out_dim, factor, factor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T * factor, out_dim)"""
        x = self.activation(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return self.upscale(x.mT).mT
        # The kernel is as wide as the stride, so each frame is multiplied by one matrix, (dim, factor * out_dim).
        weight = self.upscale.weight.permute(2, 1, 0).flatten(0, 1)
        bias = self.upscale.bias
        y = F.linear(x, weight, None if bias is None else bias.repeat(self.factor))
        return y.reshape(len(x), x.shape[1] * self.factor, -1)


def _mask(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    return None if lengths is None else length_mask(lengths, x.shape[1])
