"""Discriminators, and the GAN that trains them and computes the losses of the generator.

Multi-period and multi-scale: HiFi-GAN, Kong et al., 2020, arXiv 2010.05646, section 2.2. Multi-resolution: UnivNet,
Jang et al., 2021, arXiv 2106.07889, section 2.2. B batch, T samples or frames, D feature width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from . import losses
from .config import CodecTrainingConfig, GanConfig, WaveformGanConfig

Scores = tuple[list[Tensor], list[list[Tensor]]]  # one score map and one list of activations per discriminator


class GAN:
    """Discriminators with their optimizer.

    Args:
        gan: sizes and learning rate of the discriminators.
        config: config of the stage, for the settings of the optimizer.
        accelerator: moves the discriminators to its device, and averages their gradients over processes.
    """

    def __init__(self, gan: GanConfig, config: CodecTrainingConfig, accelerator: Accelerator) -> None:
        self.config = config
        self.learning_rate_factor = gan.learning_rate_factor
        self.accelerator = accelerator
        discriminators: nn.Module
        if isinstance(gan, WaveformGanConfig):
            discriminators = Discriminators(gan.width, scales=gan.scales, resolutions=gan.resolutions)
        else:
            discriminators = FeatureDiscriminator(gan.width)
        optimizer = torch.optim.AdamW(
            discriminators.parameters(), config.learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self.discriminators, self.optimizer = accelerator.prepare(discriminators, optimizer)

    def discriminator_step(self, real: Tensor, generated: Tensor, learning_rate: float) -> Tensor:
        """Update the discriminators once, at `learning_rate` x `learning_rate_factor`.

        Args:
            real: (B, T) waveforms, or (B, T, D) features.
            generated: output of the codec, in the shape of `real`.
            learning_rate: learning rate of the generator in this step.

        Returns:
            The hinge loss of the discriminators.
        """
        scores, _ = self.discriminators(torch.cat([real, generated.detach()]))
        real_scores = []
        fake_scores = []
        for score in scores:
            real_score, fake_score = score.float().chunk(2)
            real_scores.append(real_score)
            fake_scores.append(fake_score)
        loss = losses.discriminator_loss(real_scores, fake_scores)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.discriminators.parameters(), self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * self.learning_rate_factor
        self.optimizer.step()
        return loss.detach()

    def generator_losses(self, real: Tensor, generated: Tensor) -> dict[str, Tensor]:
        """Compute the losses of the generator: the hinge loss and feature matching."""
        # Unwrapped, because the discriminators get no gradients here that would be averaged over processes.
        discriminators = self.accelerator.unwrap_model(self.discriminators)
        discriminators.requires_grad_(False)
        with torch.no_grad():
            _, real_activations = discriminators(real)
        scores, activations = discriminators(generated)
        discriminators.requires_grad_(True)
        return {
            "generator": losses.generator_loss(scores),
            "matching": losses.feature_matching_loss(real_activations, activations),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        discriminators = self.accelerator.unwrap_model(self.discriminators)
        return {"discriminators": discriminators.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.accelerator.unwrap_model(self.discriminators).load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])


class Discriminators(nn.Module):
    """Multi-period, multi-scale and multi-resolution discriminators of waveforms.

    Args:
        width: factor of all numbers of channels; 1.0 with three scales is HiFi-GAN, about 71 M parameters.
        periods: period of each multi-period discriminator.
        scales: number of multi-scale discriminators.
        resolutions: number of multi-resolution discriminators.
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
        """(B, T) -> score maps and activations of every discriminator."""
        scores = []
        activations = []
        for discriminator in (*self.periods, *self.scales, *self.resolutions):
            score, layers = discriminator(waveform[:, None])
            scores.append(score)
            activations.append(layers)
        return scores, activations


class PeriodDiscriminator(nn.Module):
    """Reads the waveform folded into rows of `period` samples."""

    def __init__(self, period: int, width: float) -> None:
        super().__init__()
        self.period = period
        self.layers = nn.ModuleList()
        in_dim = 1
        for channels, stride in zip((32, 128, 512, 1024, 1024), (3, 3, 3, 3, 1), strict=True):
            out_dim = _scale_channels(channels, width)
            self.layers.append(weight_norm(nn.Conv2d(in_dim, out_dim, (5, 1), (stride, 1), (2, 0))))
            in_dim = out_dim
        self.score = weight_norm(nn.Conv2d(in_dim, 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, T) -> score map and activations."""
        x = F.pad(x, (0, -x.shape[-1] % self.period), "reflect")
        return _apply(x.unflatten(-1, (-1, self.period)), self.layers, self.score)


class ScaleDiscriminator(nn.Module):
    """Reads the waveform at a lower rate, where each sample is the average of `scale` samples."""

    # Channels, kernel size, stride and groups of each layer.
    LAYERS = (
        (128, 15, 1, 1),
        (128, 41, 2, 4),
        (256, 41, 2, 16),
        (512, 41, 4, 16),
        (1024, 41, 4, 16),
        (1024, 41, 1, 16),
        (1024, 5, 1, 1),
    )

    def __init__(self, scale: int, width: float) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.ModuleList()
        in_dim = 1
        for channels, kernel, stride, groups in self.LAYERS:
            out_dim = _scale_channels(channels, width)
            groups = min(groups, in_dim)
            self.layers.append(weight_norm(nn.Conv1d(in_dim, out_dim, kernel, stride, kernel // 2, groups=groups)))
            in_dim = out_dim
        self.score = weight_norm(nn.Conv1d(in_dim, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, T) -> score map and activations."""
        return _apply(F.avg_pool1d(x, self.scale) if self.scale > 1 else x, self.layers, self.score)


class ResolutionDiscriminator(nn.Module):
    """Reads the complex spectrogram of windows of `n_fft` samples."""

    def __init__(self, n_fft: int, width: float) -> None:
        super().__init__()
        self.n_fft = n_fft
        dim = max(8, int(32 * width))
        self.layers = nn.ModuleList()
        in_dim = 2
        # Only the frequency axis is strided, because it has many bins.
        for stride in (2, 2, 2, 1):
            self.layers.append(weight_norm(nn.Conv2d(in_dim, dim, (9, 3), (stride, 1), (4, 1))))
            in_dim = dim
        self.score = weight_norm(nn.Conv2d(dim, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, T) -> score map and activations."""
        window = torch.hann_window(self.n_fft, device=x.device)
        spectrum = torch.stft(x[:, 0].float(), self.n_fft, self.n_fft // 4, window=window, return_complex=True)
        return _apply(torch.view_as_real(spectrum).permute(0, 3, 1, 2), self.layers, self.score)


class FeatureDiscriminator(nn.Module):
    """Reads features as an image of time and bands, in patches of a few tenths of a second."""

    def __init__(self, width: float) -> None:
        super().__init__()
        dim = max(8, int(64 * width))
        self.layers = nn.ModuleList()
        in_dim = 1
        # Only the axis of the bands is strided.
        for stride in (2, 2, 1, 1):
            self.layers.append(weight_norm(nn.Conv2d(in_dim, dim, (5, 5), (1, stride), 2)))
            in_dim = dim
        self.score = weight_norm(nn.Conv2d(dim, 1, 3, padding=1))

    def forward(self, features: Tensor) -> Scores:
        """(B, T, D) -> the score map and the activations, as lists of one discriminator."""
        scores, activations = _apply(features[:, None], self.layers, self.score)
        return [scores], [activations]


def _scale_channels(channels: int, width: float) -> int:
    """Scale a number of channels to a multiple of 16, so that it can be divided into groups."""
    return max(16, int(channels * width) // 16 * 16)


def _apply(x: Tensor, layers: nn.ModuleList, score: nn.Module) -> tuple[Tensor, list[Tensor]]:
    activations = []
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.1)
        activations.append(x)
    return score(x), activations
