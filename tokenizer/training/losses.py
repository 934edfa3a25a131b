"""Losses on waveforms, and on what discriminators say of them. B batch, T samples."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..focalcodec.mel import log_mel

_RESOLUTIONS = ((512, 120), (1024, 240), (2048, 480))  # (n_fft, hop) of the STFT loss


def mel_loss(predicted: Tensor, target: Tensor, sampling_rate: int, hop_length: int, bands: int = 80) -> Tensor:
    """L1 between log-mel spectrograms of (B, T) waveforms (HiFi-GAN, arXiv 2010.05646, section 2.3)."""
    a, b = (log_mel(w, sampling_rate, 1024, hop_length, bands) for w in (predicted, target))
    return F.l1_loss(a, b)


def stft_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Spectral convergence + L1 of log-magnitudes at three resolutions (Parallel WaveGAN, arXiv 1910.11480)."""
    total = predicted.new_zeros(())
    for n_fft, hop in _RESOLUTIONS:
        a, b = (_magnitude(w, n_fft, hop) for w in (predicted, target))
        total = total + (a - b).norm() / b.norm() + F.l1_loss(a.log(), b.log())
    return total / len(_RESOLUTIONS)


def _magnitude(waveform: Tensor, n_fft: int, hop: int) -> Tensor:
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.view_as_real(torch.stft(waveform, n_fft, hop, window=window, return_complex=True))
    return spectrum.square().sum(dim=-1).clamp(min=1e-7).sqrt()


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminators' scores."""
    return torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]).sum()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator."""
    return torch.stack([-f.float().mean() for f in fake]).sum()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean L1 between the discriminators' inner activations (MelGAN, arXiv 1910.06711, section 2.3)."""
    pairs = [(r.detach(), f) for rs, fs in zip(real, fake, strict=True) for r, f in zip(rs, fs, strict=True)]
    return torch.stack([F.l1_loss(f.float(), r.float()) for r, f in pairs]).mean()
