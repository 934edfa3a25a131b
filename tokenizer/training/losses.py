"""Losses of the two codec stages. B batch, T samples or frames, D width, K bits per token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.mel import log_mel
from ..focalcodec.quantizer import BinarySphericalQuantizer

_RESOLUTIONS = ((512, 120), (1024, 240), (2048, 480))  # (n_fft, hop) of the STFT loss


def entropy_loss(latents: Tensor, quantizer: BinarySphericalQuantizer, inverse_temperature: float = 100.0) -> Tensor:
    """Mean entropy of single frames minus the entropy of their mean assignment, in nats.

    Low when each frame is sure of its code and all codes are used. Full enumeration of the codebook (SpeechBrain recipe
    of FocalCodec; BSQ, arXiv 2406.07548, section 3.3): memory is frames x 2^K, so pass a sample of frames.

    Args:
        latents: (frames, K) unit vectors.
    """
    codebook = quantizer.codebook.to(latents)
    probabilities = torch.softmax(2 * inverse_temperature * latents @ codebook.T, dim=-1)
    return _entropy(probabilities).mean() - _entropy(probabilities.mean(dim=0))


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=1e-5).log()).sum(dim=-1)


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


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge loss of the discriminators' scores."""
    return sum((F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)), torch.zeros(()))


def generator_loss(fake: list[Tensor]) -> Tensor:
    """Hinge loss of the generator."""
    return sum((-f.mean() for f in fake), torch.zeros(()))


def feature_matching_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Mean L1 between the discriminators' inner activations (MelGAN, arXiv 1910.06711, section 2.3)."""
    pairs = [(r.detach(), f) for rs, fs in zip(real, fake, strict=True) for r, f in zip(rs, fs, strict=True)]
    return sum((F.l1_loss(f, r) for r, f in pairs), torch.zeros(())) / len(pairs)


def gradient_norm(modules: list[nn.Module], limit: float) -> Tensor:
    """Clip the gradients of all modules together to `limit`; -> their norm before."""
    parameters = [p for m in modules for p in m.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, limit)
