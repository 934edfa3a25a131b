"""Fidelity to a reference: spectral distances, SI-SDR, PESQ and STOI. T samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....tokenizer.focalcodec.mel import log_mel
from .metric import RATE, EvalSample, Metric, Scores, version

_STFT_SIZES = (512, 1024, 2048)  # window lengths in samples; the hop is a quarter of the window
_FLOOR = 1e-5  # smallest magnitude, to keep logarithms finite
_SILENCE = 1e-12  # smallest power, to keep ratios finite
_PYSTOI_TOO_SHORT = 1e-5  # the value that pystoi returns for samples that are too short


class _FidelityMetric(Metric):
    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a target that is not empty."""
        return super().accepts(sample) and sample.target is not None and len(sample.target) > 0


class Distances(_FidelityMetric):
    """Measure `mel` and `stft` distances and `si_sdr`. Needs no optional package."""

    name = "distances"

    @property
    def checkpoint(self) -> str:
        """The settings of the distances."""
        return f"mel of 80 bands, STFT of {_STFT_SIZES} samples"

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the three values."""
        scores: list[Scores] = []
        for sample in samples:
            target, audio = sample.pair(sample.rate)
            scores.append(
                {
                    "mel": mel_distance(target, audio, sample.rate),
                    "stft": stft_distance(target, audio),
                    "si_sdr": si_sdr(target, audio),
                }
            )
        return scores


class PESQ(_FidelityMetric):
    """Measure `pesq`: wideband PESQ (ITU-T P.862.2), -0.5 to 4.64. Samples without detectable speech get no score."""

    name = "pesq"

    @property
    def checkpoint(self) -> str:
        """The package."""
        return f"{version('pesq')}, wideband"

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the score.

        Raises:
            ImportError: pesq is not installed.
        """
        try:
            import pesq
        except ImportError:
            raise ImportError("PESQ needs pesq: pip install 'focallm[eval]'") from None

        scores: list[Scores] = []
        for sample in samples:
            target, audio = sample.pair(RATE)
            try:
                # pesq divides by the largest sample, which is zero in silence.
                with np.errstate(invalid="ignore"):
                    scores.append({"pesq": float(pesq.pesq(RATE, target, audio, "wb"))})
            except pesq.PesqError:
                # Silence, or shorter than a quarter of a second.
                scores.append({})
        return scores


class STOI(_FidelityMetric):
    """Measure `stoi`: short-time objective intelligibility (Taal et al., 2011), 0 to 1.

    Silence and samples shorter than 0.4 s get no score.
    """

    name = "stoi"

    @property
    def checkpoint(self) -> str:
        """The package."""
        return version("pystoi")

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a target that is not silent."""
        return super().accepts(sample) and bool(np.any(sample.target))

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Measure the score.

        Raises:
            ImportError: pystoi is not installed.
        """
        try:
            from pystoi import stoi
        except ImportError:
            raise ImportError("STOI needs pystoi: pip install 'focallm[eval]'") from None
        scores: list[Scores] = []
        for sample in samples:
            target, audio = sample.pair(RATE)
            value = float(stoi(target, audio, RATE))
            scores.append({} if value == _PYSTOI_TOO_SHORT else {"stoi": value})
        return scores


def mel_distance(target: np.ndarray, audio: np.ndarray, rate: int) -> float:
    """Compute the mean absolute difference of log-mel spectrograms.

    Args:
        target: (T,) at `rate`.
        audio: (T,) at `rate`.
        rate: Sampling rate in Hz.

    Returns:
        The distance in nats of magnitude.
    """
    target_mel = log_mel(_tensor(target)[None], rate, 1024, 320, 80)
    audio_mel = log_mel(_tensor(audio)[None], rate, 1024, 320, 80)
    return float((target_mel - audio_mel).abs().mean())


def stft_distance(target: np.ndarray, audio: np.ndarray) -> float:
    """Compute the multi-resolution STFT distance (Yamamoto et al., 2020, arXiv 1910.11480, eq. 4 to 6).

    It is the sum of spectral convergence and mean absolute difference of log magnitudes, averaged over three windows.

    Args:
        target: (T,).
        audio: (T,).
    """
    distances = []
    for size in _STFT_SIZES:
        x = _magnitudes(_tensor(target), size)
        y = _magnitudes(_tensor(audio), size)
        distances.append((x - y).norm() / x.norm() + (x.log() - y.log()).abs().mean())
    return float(torch.stack(distances).mean())


def si_sdr(target: np.ndarray, audio: np.ndarray) -> float:
    """Compute the scale-invariant signal-to-distortion ratio (Le Roux et al., 2019, arXiv 1811.02508, eq. 5).

    Args:
        target: (T,); its mean is removed.
        audio: (T,); its mean is removed.

    Returns:
        The ratio in dB, at most 100.
    """
    s = target.astype(np.float64) - target.mean(dtype=np.float64)
    x = audio.astype(np.float64) - audio.mean(dtype=np.float64)
    projection = (x @ s) / max(s @ s, _SILENCE) * s
    power = projection @ projection + _SILENCE
    noise = (x - projection) @ (x - projection)
    return float(10 * np.log10(power / max(noise, 1e-10 * power)))


def _magnitudes(wave: Tensor, size: int) -> Tensor:
    """Compute the STFT magnitudes of (T,)."""
    # Zeros, because padding by reflection fails for waves shorter than half a window.
    padded = torch.nn.functional.pad(wave, (size // 2, size // 2))
    window = torch.hann_window(size)
    spectrum: Any = torch.stft(padded, size, size // 4, window=window, center=False, return_complex=True)
    return spectrum.abs().clamp(min=_FLOOR)


def _tensor(wave: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(wave, np.float32))
