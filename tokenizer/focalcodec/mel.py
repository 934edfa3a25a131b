"""Log-mel frames as features that need no pretrained model. B batch, T frames, D mel bands."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from .layers import StreamState, length_mask, zero_padding
from .parts import MelConfig


class MelEncoder(nn.Module):
    """Waveform (B, T_samples) -> normalized log-mel frames (B, T, D).

    Frame i is centered on hop i, or ends with it in a causal encoder.
    """

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Compute the number of frames of signals of (B,) samples, rounded up so that they cover every sample."""
        return -(-lengths // self.config.hop_length)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """waveform (B, T_samples), lengths (B,) in samples -> (B, T, D); frames of padding are zero."""
        config = self.config
        if lengths is not None:
            waveform = zero_padding(waveform[..., None], length_mask(lengths, waveform.shape[1]))[..., 0]
        past = 0
        if state is not None:
            past = config.n_fft - config.hop_length
            waveform = state.extend(self, waveform[..., None], past, zeros=True)[..., 0]
        mel = log_mel(waveform, config.sampling_rate, config.n_fft, config.hop_length, config.dim, past)
        features = (mel - config.mean) / config.std
        if lengths is None:
            return features
        return zero_padding(features, length_mask(self.num_frames(lengths), mel.shape[1]))


def log_mel(waveform: Tensor, sampling_rate: int, n_fft: int, hop_length: int, bands: int, past: int = 0) -> Tensor:
    """Compute the logarithm of mel magnitudes (power 1, Slaney bands, floor 1e-5).

    The signal is padded with zeros on both sides, so more zeros at its end do not change its frames.

    Args:
        waveform: (B, T) samples.
        sampling_rate: rate in Hz.
        n_fft: number of samples of a window.
        hop_length: number of samples between two frames.
        bands: number of mel bands.
        past: number of samples at the beginning that belong to the past; the first window then begins there.

    Returns:
        (B, ceil((T - past) / hop_length), bands)
    """
    # Pad so that window i is centered on hop i and the last sample is inside a hop.
    # Not -(-T // hop): division in ONNX rounds toward zero.
    frames = (waveform.shape[1] - past + hop_length - 1) // hop_length
    left = 0 if past else (n_fft - hop_length) // 2
    padded = F.pad(waveform, (left, (frames - 1) * hop_length + n_fft - left - waveform.shape[1]))
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.stft(padded.float(), n_fft, hop_length, window=window, center=False, return_complex=True)
    mel = spectrum.abs().mT @ _filters(sampling_rate, n_fft, bands).to(waveform.device)
    return mel.clamp(min=1e-5).log().to(waveform.dtype)


@functools.cache
def _filters(sampling_rate: int, n_fft: int, bands: int) -> Tensor:
    """Compute the mel filters, (n_fft / 2 + 1, bands)."""
    filters = mel_filter_bank(
        n_fft // 2 + 1, bands, 0.0, sampling_rate / 2, sampling_rate, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters).float()
