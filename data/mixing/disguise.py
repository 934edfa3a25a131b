"""Another voice for the same words: pitch and formants moved apart from each other. T samples, N frames, F bins."""

import numpy as np
import torch
from torch import Tensor

from ...tokenizer.audio import Waveform, resample

_WINDOW_S = 0.032
_LIFTER_S = (0.001, 0.002)  # full and zero weight; below the period of a high voice, so that no harmonics are followed
_HOP_S, _SLACK_S = 0.02, 0.01  # of the stretching; the slack covers a period of a low voice
_DITHER = 1e-4  # of the loudest sample; becomes the breath above the highest frequency of a lowered voice


def disguise(wave: Waveform, rate: int, pitch: float, formants: float, rng: np.random.Generator) -> Waveform:
    """Speech with its pitch and its formants multiplied by these factors -> (T,), every sound at its time.

    Resampling moves pitch and formants together; the result, stretched back to T samples, lends only its excitation,
    and the envelope is that of the original with its frequencies scaled.
    """
    faster = resample(wave, round(rate * pitch), rate)
    moved = stretch(faster, len(wave), rate)
    moved = moved + np.abs(moved).max() * _DITHER * rng.standard_normal(len(wave)).astype(np.float32)
    spectrum, original = _stft(moved, rate), _stft(wave, rate)
    excitation = spectrum / torch.exp(_log_envelope(spectrum, rate))
    result = excitation * torch.exp(_scale(_log_envelope(original, rate), formants))
    return _istft(result, len(wave), rate)


def stretch(wave: Waveform, length: int, rate: int) -> Waveform:
    """Change the duration but not the pitch -> (length,): windows overlap-added where they fit best (WSOLA)."""
    hop, slack = round(_HOP_S * rate), round(_SLACK_S * rate)
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    padded = np.pad(wave, (hop + slack, 4 * hop + slack))
    out = np.zeros(length + 3 * hop, np.float32)
    follower = padded[slack : slack + 2 * hop]  # what would continue the last window naturally
    for start in range(0, length + hop, hop):
        place = round(start * len(wave) / length)
        place = min(place, len(padded) - 3 * hop - 2 * slack)
        near = padded[place : place + 2 * (hop + slack)]
        best = place + int(np.argmax(np.correlate(near, follower, "valid")))
        out[start : start + 2 * hop] += window * padded[best : best + 2 * hop]
        follower = padded[best + hop : best + 3 * hop]
    return out[hop : hop + length]


def _log_envelope(spectrum: Tensor, rate: int) -> Tensor:
    """(F, N) complex -> (F, N): the smooth part of the log spectrum, from its cepstrum"""
    size = 2 * (len(spectrum) - 1)
    cepstrum = torch.fft.irfft(torch.log(spectrum.abs() + 1e-7), n=size, dim=0)
    quefrency_s = torch.arange(size).minimum(size - torch.arange(size)) / rate
    fall = ((quefrency_s - _LIFTER_S[0]) / (_LIFTER_S[1] - _LIFTER_S[0])).clamp(0, 1)
    lifter = 0.5 + 0.5 * torch.cos(torch.pi * fall)
    return torch.fft.rfft(cepstrum * lifter[:, None], dim=0).real


def _scale(envelope: Tensor, factor: float) -> Tensor:
    """(F, N) -> (F, N) with what was at bin f now at f * factor"""
    last = len(envelope) - 1
    place = (torch.arange(last + 1) / factor).clamp(max=last)
    low = place.floor().long().clamp(max=last - 1)
    return torch.lerp(envelope[low], envelope[low + 1], (place - low)[:, None])


def _stft(wave: Waveform, rate: int) -> Tensor:
    window = _window(rate)
    return torch.stft(
        torch.from_numpy(wave), len(window), len(window) // 4, window=window, pad_mode="constant", return_complex=True
    )


def _istft(spectrum: Tensor, length: int, rate: int) -> Waveform:
    window = _window(rate)
    return torch.istft(spectrum, len(window), len(window) // 4, window=window, length=length).numpy()


def _window(rate: int) -> Tensor:
    return torch.hann_window(4 * round(_WINDOW_S * rate / 4))
