r"""Losses of waveforms and codes. B batch, T samples, F frames, K bits.

The entropy loss of binary codes (Zhao et al., 2024, arXiv 2406.07548): a latent u is assigned softly to the 2^K codes
c = (+-a, ..., +-a) by p(c) = softmax(2 t u.c) with the inverse temperature t. The loss is the mean entropy of the
assignments, low when each frame is close to one code, minus the entropy of their mean, high when all codes are used.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..focalcodec.mel import log_mel
from ..focalcodec.quantizer import LookupFreeQuantizer

_STFT_RESOLUTIONS = ((512, 120), (1024, 240), (2048, 480))  # (n_fft, hop)
# Entries of the table frames x codes in memory at a time: 16 MB. A batch of 16 clips of 4 s with 8192 codes would need
# 100 times that.
_MAX_TABLE_ENTRIES = 1 << 22


# ---- waveforms ----


def mel_loss(predicted: Tensor, target: Tensor, sampling_rate: int, hop_length: int, bands: int = 80) -> Tensor:
    """L1 distance of the log-mel spectrograms of (B, T) waveforms (HiFi-GAN, arXiv 2010.05646, section 2.3)."""
    predicted_mel = log_mel(predicted, sampling_rate, 1024, hop_length, bands)
    target_mel = log_mel(target, sampling_rate, 1024, hop_length, bands)
    return F.l1_loss(predicted_mel, target_mel)


def stft_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Spectral convergence plus L1 of log-magnitudes at three resolutions (Parallel WaveGAN, arXiv 1910.11480)."""
    total = predicted.new_zeros(())
    for n_fft, hop in _STFT_RESOLUTIONS:
        predicted_magnitude = _magnitude(predicted, n_fft, hop)
        target_magnitude = _magnitude(target, n_fft, hop)
        convergence = (predicted_magnitude - target_magnitude).norm() / target_magnitude.norm()
        total = total + convergence + F.l1_loss(predicted_magnitude.log(), target_magnitude.log())
    return total / len(_STFT_RESOLUTIONS)


def _magnitude(waveform: Tensor, n_fft: int, hop: int) -> Tensor:
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.view_as_real(torch.stft(waveform, n_fft, hop, window=window, return_complex=True))
    return spectrum.square().sum(dim=-1).clamp(min=1e-7).sqrt()


# ---- discriminators ----


def discriminator_loss(real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminators, summed over them."""
    terms = []
    for real, fake in zip(real_scores, fake_scores, strict=True):
        terms.append(F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return torch.stack(terms).sum()


def generator_loss(fake_scores: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator, summed over discriminators."""
    return torch.stack([-scores.float().mean() for scores in fake_scores]).sum()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean L1 distance of the discriminators' activations (MelGAN, arXiv 1910.06711, section 2.3)."""
    distances = []
    for real_activations, fake_activations in zip(real, fake, strict=True):
        for real_layer, fake_layer in zip(real_activations, fake_activations, strict=True):
            distances.append(F.l1_loss(fake_layer.float(), real_layer.detach().float()))
    return torch.stack(distances).mean()


# ---- codes ----


def entropy_loss(latents: Tensor, quantizer: LookupFreeQuantizer, inverse_temperature: float = 100.0) -> Tensor:
    """Mean entropy of the assignments minus the entropy of the mean assignment, in nats; see the top of this file.

    Args:
        latents: (F, K), without padding. (The published recipe includes it.)
        quantizer: quantizer with the codes.
        inverse_temperature: t above.
    """
    latents = latents.float()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=latents.shape[1])), device=latents.device)
    codes = signs * (2 * inverse_temperature * quantizer.scale)
    frame_entropy = latents.new_zeros(())
    mean_assignment = latents.new_zeros(len(codes))
    for chunk in latents.split(max(1, _MAX_TABLE_ENTRIES // len(codes))):
        # The table of a chunk is not stored but recomputed in the backward pass.
        entropies, assignments = checkpoint(_assign, chunk, codes, use_reentrant=False, preserve_rng_state=False)
        frame_entropy = frame_entropy + entropies / len(latents)
        mean_assignment = mean_assignment + assignments / len(latents)
    return frame_entropy - _entropy(_mean_over_processes(mean_assignment))


def _assign(latents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """(F, K), (2^K, K) -> sums over frames of the entropy () and of the probabilities (2^K,)."""
    probabilities = torch.softmax(latents @ codes.T, dim=-1)
    return _entropy(probabilities).sum(), probabilities.sum(dim=0)


def _mean_over_processes(mean: Tensor) -> Tensor:
    """Average over the processes that share a batch, because the use of codes is a property of the whole batch."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    # This module is missing if torch was built without distributed.
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(mean) / dist.get_world_size()  # gradients are summed in the same way


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=1e-5).log()).sum(dim=-1)


# ---- total ----


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Compute the total loss. Every loss must have a weight."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
