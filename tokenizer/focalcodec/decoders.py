"""Decoders: features at the frame rate to a waveform.

Vocos is the decoder of the released models, WaveNeXt that of the causal ones; HiFi-GAN replaces them in the ablation.
B batch, T frames (or samples, inside HiFi-GAN), D width, C channels. Every decoder takes features (B, T, input_dim),
their lengths (B,) in frames where a batch is padded, and the state of a stream, which only WaveNeXt can use.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConvNeXtBlock, StreamState, convolve_same, length_mask, zero_padding
from .parts import HiFiGANConfig, VocosConfig, WaveNeXtConfig

Padding = Literal["zeros", "reflect"]
_SLOPE = 0.1  # of the leaky ReLUs of HiFi-GAN


class Vocos(nn.Module):
    """Vocos (Siuzdak, 2023, arXiv 2306.00814): ConvNeXt blocks at the frame rate, then an inverse STFT."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.backbone = ConvNeXtBackbone(config)
        self.head = ISTFTHead(config)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """(B, T, input_dim) -> (B, T * hop_length)"""
        assert state is None, "Vocos is not causal"
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        return self.head(self.backbone(x, mask), mask)


class WaveNeXt(nn.Module):
    """WaveNeXt (Okamoto et al., 2023): the backbone of Vocos and one linear layer from a frame to its samples."""

    def __init__(self, config: WaveNeXtConfig) -> None:
        super().__init__()
        self.backbone = ConvNeXtBackbone(config)
        self.head = LinearHead(config)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """(B, T, input_dim) -> (B, T * hop_length) in [-1, 1]"""
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        return self.head(self.backbone(x, mask, state))


class ConvNeXtBackbone(nn.Module):
    """ConvNeXt blocks at the frame rate."""

    def __init__(self, config: VocosConfig | WaveNeXtConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.embedding = nn.Conv1d(config.input_dim, config.dim, config.kernel_size)
        self.input_norm = nn.LayerNorm(config.dim, eps=1e-6)
        scale = config.layerscale_init or 1 / config.num_layers
        self.layers = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.ffn_dim, config.kernel_size, scale) for _ in range(config.num_layers)
        )
        self.output_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """x (B, T, input_dim), mask (B, T) True where a frame is real -> (B, T, dim); with a state, it is causal."""
        x = self.input_norm(convolve_same(self.embedding, x, mask, state))
        for layer in self.layers:
            x = layer(x, mask, state)
        return self.output_norm(x)


class ISTFTHead(nn.Module):
    """Log-magnitude and phase of each frame -> waveform by windowed overlap-add, in float32."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.proj = nn.Linear(config.dim, config.n_fft + 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T * hop_length)"""
        magnitude, phase = self.proj(x).float().chunk(2, dim=-1)
        # As in Vocos, the limit keeps an extreme prediction from dominating the signal.
        spectrum = torch.polar(magnitude.exp().clamp(max=100), phase)
        window = torch.hann_window(self.n_fft, device=x.device)
        frames = zero_padding(torch.fft.irfft(spectrum, self.n_fft) * window, mask)
        # Windows of padding do not count either.
        real = torch.ones(x.shape[:2], device=x.device) if mask is None else mask.float()
        window_sum = self._overlap_add(real[..., None] * window.square()).clamp(min=1e-11)
        waveform = self._overlap_add(frames) / window_sum
        # The windows reach beyond the first and the last hop.
        cut = (self.n_fft - self.hop_length) // 2
        return waveform[:, cut : cut + x.shape[1] * self.hop_length].to(x.dtype)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) -> (B, (T - 1) * hop_length + n_fft)"""
        size = (frames.shape[1] - 1) * self.hop_length + self.n_fft
        return F.fold(frames.mT, (1, size), (1, self.n_fft), stride=(1, self.hop_length))[:, 0, 0]


class LinearHead(nn.Module):
    """Each frame (B, T, dim) -> its samples (B, T * hop_length), clipped to [-1, 1]."""

    def __init__(self, config: WaveNeXtConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.dim, config.hop_length)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T * hop_length)"""
        return self.proj(x).flatten(1).clamp(-1, 1)


class HiFiGAN(nn.Module):
    """The generator of HiFi-GAN (Kong et al., 2020, arXiv 2010.05646), without weight normalization.

    Inside, channels come before time, and each upscaling halves them.

    Args:
        config: sizes.
        padding_mode: padding of the convolutions that keep the length. Padded batches need "zeros".
        last_slope: negative slope of the leaky ReLU before the last convolution.
    """

    def __init__(self, config: HiFiGANConfig, padding_mode: Padding = "zeros", last_slope: float = _SLOPE) -> None:
        super().__init__()
        self.factors = config.factors
        self.last_slope = last_slope
        dims = [config.channels // 2**i for i in range(len(config.factors) + 1)]
        self.in_conv = nn.Conv1d(config.input_dim, dims[0], 7, padding=3, padding_mode=padding_mode)
        self.upscales = nn.ModuleList()
        for i, factor in enumerate(config.factors):
            # The kernel spans two frames, and the padding makes the output `factor` times as long as the input.
            odd = factor % 2
            padding = (factor + odd) // 2
            upscale = nn.ConvTranspose1d(dims[i], dims[i + 1], 2 * factor, factor, padding=padding, output_padding=odd)
            self.upscales.append(upscale)
        self.fusions = nn.ModuleList(Fusion(config, dim, padding_mode) for dim in dims[1:])
        self.out_conv = nn.Conv1d(dims[-1], 1, 7, padding=3, padding_mode=padding_mode)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """(B, T, input_dim) -> (B, T * hop_length) in [-1, 1]"""
        assert state is None, "HiFi-GAN is not causal"
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        x = self.in_conv(_zero_channels(x.mT, mask))
        for factor, upscale, fusion in zip(self.factors, self.upscales, self.fusions, strict=True):
            x = upscale(_zero_channels(F.leaky_relu(x, _SLOPE), mask))
            if mask is not None:
                mask = mask.repeat_interleave(factor, dim=1)
            x = fusion(x, mask)
        return torch.tanh(self.out_conv(_zero_channels(F.leaky_relu(x, self.last_slope), mask)))[:, 0]


class Fusion(nn.Module):
    """The mean of residual branches with different kernel sizes, for patterns of different lengths."""

    def __init__(self, config: HiFiGANConfig, dim: int, padding_mode: Padding) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            Branch(dim, kernel, config.dilations, padding_mode) for kernel in config.kernel_sizes
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        return torch.stack([branch(x, mask) for branch in self.branches]).mean(dim=0)


class Branch(nn.Module):
    """A dilated and a plain convolution for each dilation, with a residual around the two."""

    def __init__(self, dim: int, kernel_size: int, dilations: tuple[int, ...], padding_mode: Padding) -> None:
        super().__init__()
        same: dict[str, Any] = {"padding": "same", "padding_mode": padding_mode}
        self.dilated = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size, dilation=d, **same) for d in dilations)
        self.plain = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size, **same) for _ in dilations)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            y = dilated(_zero_channels(F.leaky_relu(x, _SLOPE), mask))
            x = x + plain(_zero_channels(F.leaky_relu(y, _SLOPE), mask))
        return x


def _zero_channels(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padding of (B, C, T), so that a convolution sees the same zeros as after the end of a single item."""
    if mask is None:
        return x
    return x.masked_fill(~mask[:, None], 0.0)
