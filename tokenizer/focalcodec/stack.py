"""FocalCodec's compressor and decompressor: layers of one block and one scaling each.

B batch, T frames, N tokens. What the block is, the config says: focal modulation in every released model, the others
in the paper's ablation. Each takes x (B, T, D), mask (B, T) True where a frame is real, and the state of a causal one.
"""

import dataclasses
from collections.abc import Callable, Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from .amp import AMPBlock
from .conformer import ConformerBlock
from .focal import FocalBlock
from .masks import length_mask, zero_padding
from .parts import AMPConfig, ConformerConfig, FocalConfig, LinearConfig, StackConfig
from .precision import full_precision
from .scaling import DownScale, UpScale
from .state import StreamState


class LinearBlock(nn.Module):
    """A projection of each frame by itself: what is left of a block when it sees no context."""

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
    LinearConfig: LinearBlock,
}


class Compressor(nn.Module):
    """Features (B, T, input_dim) -> latents (B, N, output_dim), not yet normalised."""

    def __init__(self, config: StackConfig) -> None:
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
    """Down-scaling, then the block; called part by part, since the number of frames changes between them."""

    def __init__(self, config: StackConfig, in_dim: int, dim: int, factor: int) -> None:
        super().__init__()
        self.downscale = DownScale(in_dim, dim, factor, config.activation)
        self.focal_block = BLOCKS[type(config)](config, dim)  # of any kind: the released checkpoints give the name


class Decompressor(nn.Module):
    """Quantised codes (B, N, input_dim) -> features (B, T, output_dim)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        dims = (*config.hidden_dims, config.output_dim)
        configs = [config] * len(config.factors)
        self.refiner = None
        if isinstance(config, FocalConfig) and config.causal:
            configs[-1] = dataclasses.replace(config, window_size=config.last_window_size or config.window_size)
            if config.lookahead_size > 0:
                self.refiner = Refiner(config.output_dim, config.lookahead_size + 1)
        self.in_proj = nn.Linear(config.input_dim, dims[0])
        self.layers: Iterable[DecompressorLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecompressorLayer(configs[i], dims[i], dims[i + 1], factor) for i, factor in enumerate(config.factors)
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """lengths (B,) in tokens."""
        x = self.in_proj(x)
        for layer in self.layers:
            x = layer.upscale(layer.focal_block(x, _mask(lengths, x), state))
            lengths = None if lengths is None else lengths * layer.upscale.factor
        x = zero_padding(x, _mask(lengths, x))
        return x if self.refiner is None else self.refiner(x)


class DecompressorLayer(nn.Module):
    """The block, then up-scaling."""

    def __init__(self, config: StackConfig, dim: int, out_dim: int, factor: int) -> None:
        super().__init__()
        self.focal_block = BLOCKS[type(config)](config, dim)
        self.upscale = UpScale(dim, out_dim, factor, config.activation)


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


def _mask(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    return None if lengths is None else length_mask(lengths, x.shape[1])
