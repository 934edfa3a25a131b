"""Discriminators of waveforms: folded by periods, averaged down, and as spectrograms.

Multi-period and multi-scale: HiFi-GAN, Kong et al., 2020, arXiv 2010.05646, section 2.2. Multi-resolution: UnivNet,
Jang et al., 2021, arXiv 2106.07889, section 2.2. B batch, T samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Scores = tuple[list[Tensor], list[list[Tensor]]]  # one score map and one list of activations per discriminator


class Discriminators(nn.Module):
    """Five periods, and as many scales and resolutions as asked for.

    `width` scales every channel count; with 1.0 and three scales it is HiFi-GAN's, about 71 M parameters.
    """

    def __init__(
        self,
        width: float = 1.0,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        scales: int = 3,
        resolutions: int = 0,
    ) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(period, width) for period in periods)
        self.scales = nn.ModuleList(ScaleDiscriminator(2**scale, width) for scale in range(scales))
        self.resolutions = nn.ModuleList(ResolutionDiscriminator(512 * 2**i, width) for i in range(resolutions))

    def forward(self, waveform: Tensor) -> Scores:
        """(B, T) -> scores and activations of every discriminator"""
        results = [d(waveform[:, None]) for d in (*self.periods, *self.scales, *self.resolutions)]
        return [scores for scores, _ in results], [activations for _, activations in results]


class PeriodDiscriminator(nn.Module):
    """Looks at the waveform folded into rows of `period` samples."""

    def __init__(self, period: int, width: float) -> None:
        super().__init__()
        self.period = period
        dims = [1, *(_scaled(c, width) for c in (32, 128, 512, 1024, 1024))]
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(dims[i], dims[i + 1], (5, 1), (stride, 1), (2, 0)))
            for i, stride in enumerate(strides)
        )
        self.score = weight_norm(nn.Conv2d(dims[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.pad(x, (0, -x.shape[-1] % self.period), "reflect")
        return _run(x.unflatten(-1, (-1, self.period)), self.layers, self.score)


class ScaleDiscriminator(nn.Module):
    """Looks at the waveform averaged down by `scale`."""

    def __init__(self, scale: int, width: float) -> None:
        super().__init__()
        self.scale = scale
        dims = [1, *(_scaled(c, width) for c in (128, 128, 256, 512, 1024, 1024, 1024))]
        kernels, strides, groups = (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1), (1, 4, 16, 16, 16, 16, 1)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(dims[i], dims[i + 1], k, s, k // 2, groups=min(g, dims[i])))
            for i, (k, s, g) in enumerate(zip(kernels, strides, groups, strict=True))
        )
        self.score = weight_norm(nn.Conv1d(dims[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _run(F.avg_pool1d(x, self.scale) if self.scale > 1 else x, self.layers, self.score)


class ResolutionDiscriminator(nn.Module):
    """Looks at the complex spectrogram of windows of `n_fft` samples."""

    def __init__(self, n_fft: int, width: float) -> None:
        super().__init__()
        self.n_fft = n_fft
        dim = max(8, int(32 * width))
        dims, strides = [2, dim, dim, dim, dim], (2, 2, 2, 1)  # of the frequency, which has many bins
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(dims[i], dims[i + 1], (9, 3), (stride, 1), (4, 1)))
            for i, stride in enumerate(strides)
        )
        self.score = weight_norm(nn.Conv2d(dim, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        window = torch.hann_window(self.n_fft, device=x.device)
        spectrum = torch.stft(x[:, 0].float(), self.n_fft, self.n_fft // 4, window=window, return_complex=True)
        return _run(torch.view_as_real(spectrum).permute(0, 3, 1, 2), self.layers, self.score)


class FeatureDiscriminator(nn.Module):
    """Looks at features as a picture, time by bands, in patches of some tenths of a second."""

    def __init__(self, width: float) -> None:
        super().__init__()
        dim = max(8, int(64 * width))
        dims, strides = [1, dim, dim, dim, dim], (2, 2, 1, 1)  # of the bands
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(dims[i], dims[i + 1], (5, 5), (1, stride), 2)) for i, stride in enumerate(strides)
        )
        self.score = weight_norm(nn.Conv2d(dim, 1, 3, padding=1))

    def forward(self, features: Tensor) -> Scores:
        """(B, T, D) -> scores and activations, of this one"""
        scores, activations = _run(features[:, None], self.layers, self.score)
        return [scores], [activations]


def _scaled(channels: int, width: float) -> int:
    """A multiple of 16, so that every grouped convolution divides it."""
    return max(16, int(channels * width) // 16 * 16)


def _run(x: Tensor, layers: nn.ModuleList, score: nn.Module) -> tuple[Tensor, list[Tensor]]:
    activations = []
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.1)
        activations.append(x)
    return score(x), activations
