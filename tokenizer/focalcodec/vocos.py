"""Vocos (Siuzdak, 2023, arXiv 2306.00814): ConvNeXt blocks at the frame rate, then an inverse STFT.

B batch, T frames, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import length_mask, zero_padding
from .parts import VocosConfig, WaveNeXtConfig
from .state import StreamState


class Vocos(nn.Module):
    """Features (B, T, input_dim) -> waveform (B, T * hop_length)."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.backbone = ConvNeXtBackbone(config)
        self.head = ISTFTHead(config)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """lengths (B,) in frames."""
        assert state is None, "Vocos is not causal"
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        return self.head(self.backbone(x, mask), mask)


class ConvNeXtBackbone(nn.Module):
    """(B, T, input_dim) -> (B, T, dim)"""

    def __init__(self, config: VocosConfig | WaveNeXtConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.embedding = nn.Conv1d(config.input_dim, config.dim, config.kernel_size)
        self.input_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.layers = nn.ModuleList(ConvNeXtBlock(config) for _ in range(config.num_layers))
        self.output_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """mask (B, T) True where a frame is real; a causal backbone takes a state instead."""
        x = self.input_norm(_convolve(self.embedding, x, mask, state))
        for layer in self.layers:
            x = layer(x, mask, state)
        return self.output_norm(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution and an inverted bottleneck, with a layer scale (Liu et al., 2022, arXiv 2201.03545)."""

    def __init__(self, config: VocosConfig | WaveNeXtConfig) -> None:
        super().__init__()
        given = config.layerscale_init
        self.layerscale_init = 1 / config.num_layers if given is None else given
        self.dwconv = nn.Conv1d(config.dim, config.dim, config.kernel_size, groups=config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.pwconv1 = nn.Linear(config.dim, config.ffn_dim)
        self.pwconv2 = nn.Linear(config.ffn_dim, config.dim)
        self.gamma = nn.Parameter(torch.full((config.dim,), self.layerscale_init))

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """(B, T, dim) -> (B, T, dim)"""
        y = self.norm(_convolve(self.dwconv, x, mask, state))
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))


def _convolve(conv: nn.Conv1d, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
    """(B, T, D) -> (B, T, D'). Causal (with a state): zeros stand before the first frame."""
    kernel = conv.kernel_size[0]
    if state is None:
        x = F.pad(zero_padding(x, mask), (0, 0, (kernel - 1) // 2, kernel // 2))
    else:
        x = state.extend(conv, x, kernel - 1, zeros=True)
    return conv(x.mT).mT


class ISTFTHead(nn.Module):
    """Log-magnitude and phase per frame -> waveform by windowed overlap-add, in float32."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.n_fft, self.hop_length = config.n_fft, config.hop_length
        self.proj = nn.Linear(config.dim, config.n_fft + 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T * hop_length); frames of padding add nothing, to the window's sum either."""
        magnitude, phase = self.proj(x).float().chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.exp().clamp(max=100), phase)
        window = torch.hann_window(self.n_fft, device=x.device)
        frames = zero_padding(torch.fft.irfft(spectrum, self.n_fft) * window, mask)
        real = torch.ones(x.shape[:2], device=x.device) if mask is None else mask.float()
        waveform = self._overlap_add(frames) / self._overlap_add(real[..., None] * window.square()).clamp(min=1e-11)
        cut = (self.n_fft - self.hop_length) // 2
        return waveform[:, cut : cut + x.shape[1] * self.hop_length].to(x.dtype)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) -> (B, (T - 1) * hop_length + n_fft)"""
        size = (frames.shape[1] - 1) * self.hop_length + self.n_fft
        return F.fold(frames.mT, (1, size), (1, self.n_fft), stride=(1, self.hop_length))[:, 0, 0]
