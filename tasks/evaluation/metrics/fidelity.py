"""Fidelity to a reference: spectral distances, SI-SDR, PESQ and STOI. T samples."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ....tokenizer.focalcodec.mel import log_mel
from .metric import RATE, EvalSample, Metric, Scores, cut_at_pauses, has_sound, version

_STFT_SIZES = (512, 1024, 2048)  # window lengths in samples; the hop is a quarter of the window
_FLOOR = 1e-5  # magnitude below which a spectrum is silent, as in `log_mel`
_MAX_SI_SDR = 100.0  # dB; the scale ends at this value and at its negative
_PESQ_WINDOW_S = 20.0
_PYSTOI_TOO_SHORT = 1e-5  # the value that pystoi returns for a target with less than 0.4 s of speech


class _FidelityMetric(Metric):
    """Compares audio with a target. Without sound in the target the scores are undefined.

    Subclasses implement `compare`.
    """

    def accepts(self, sample: EvalSample) -> bool:
        """Accept samples with a target."""
        return sample.target is not None

    def rate(self, sample: EvalSample) -> int:
        """Return the rate in Hz at which target and audio are compared."""
        return RATE

    def measure(self, samples: Sequence[EvalSample]) -> list[Scores]:
        """Compare each sample with its target."""
        scores: list[Scores] = []
        for sample in samples:
            rate = self.rate(sample)
            target, audio = sample.pair(rate)
            scores.append(self.compare(target, audio, rate) if has_sound(target) else {})
        return scores

    def compare(self, target: np.ndarray, audio: np.ndarray, rate: int) -> Scores:
        """Compare audio (T,) with a target (T,) that has sound, both at `rate` in Hz."""
        raise NotImplementedError


class Distances(_FidelityMetric):
    """Measure `mel` and `stft` distances and `si_sdr`. Needs no optional package."""

    name = "distances"
    score_names = ("mel", "stft", "si_sdr")

    @property
    def checkpoint(self) -> str:
        """The settings of the distances."""
        return f"mel of 80 bands, STFT of {_STFT_SIZES} samples, SI-SDR within {_MAX_SI_SDR:.0f} dB"

    def rate(self, sample: EvalSample) -> int:
        """Return the rate of the sample."""
        return sample.rate

    def compare(self, target: np.ndarray, audio: np.ndarray, rate: int) -> Scores:
        """Measure the three values."""
        return {
            "mel": mel_distance(target, audio, rate),
            "stft": stft_distance(target, audio),
            "si_sdr": si_sdr(target, audio),
        }


class _Perceptual(_FidelityMetric):
    """One score from a package, which is undefined for targets that the package cannot use.

    If the package cannot use the audio, though it can use the target, the score is the lowest one. The scores do not
    depend on the level: both waves are brought to full scale, where small constants in the packages have no effect.
    """

    lowest: ClassVar[float]

    def compare(self, target: np.ndarray, audio: np.ndarray, rate: int) -> Scores:
        """Measure the score."""
        target = target / np.abs(target).max()
        value = self.score(target, audio / np.abs(audio).max()) if has_sound(audio) else None
        if value is None and self.score(target, target) is not None:
            value = self.lowest
        return {} if value is None else {self.name: value}

    def score(self, target: np.ndarray, audio: np.ndarray) -> float | None:
        """Score audio (T,) against a target (T,), both at `RATE` and full scale; None if the package cannot."""
        raise NotImplementedError


class PESQ(_Perceptual):
    """Measure `pesq`: wideband PESQ (ITU-T P.862.2), 1 to 4.64. Targets shorter than 0.25 s get no score.

    The score of more than 20 s is the mean over windows, because the package crashes at 50 utterances.
    """

    name = "pesq"
    score_names = ("pesq",)
    lowest = 1.0

    @property
    def checkpoint(self) -> str:
        """The package."""
        return f"{version('pesq')}, wideband, silence scores {self.lowest:.0f}"

    def load(self) -> None:
        """Check that the package is there.

        Raises:
            ImportError: pesq is not installed.
        """
        try:
            import pesq  # noqa: F401
        except ImportError:
            raise ImportError("PESQ needs pesq: pip install 'focallm[eval]'") from None

    def compare(self, target: np.ndarray, audio: np.ndarray, rate: int) -> Scores:
        """Measure the score, of windows if the target is long."""
        values = []
        durations = []
        for window in cut_at_pauses(target, _PESQ_WINDOW_S):
            scores = super().compare(target[window], audio[window], rate) if has_sound(target[window]) else {}
            if scores:
                values.append(scores[self.name])
                durations.append(window.stop - window.start)
        return {self.name: float(np.average(values, weights=durations))} if values else {}

    def score(self, target: np.ndarray, audio: np.ndarray) -> float | None:
        """Measure the score."""
        import pesq

        try:
            value = float(pesq.pesq(RATE, target, audio, "wb"))
        except (pesq.PesqError, ValueError):
            # No utterance found, or shorter than a quarter of a second.
            return None
        return value if np.isfinite(value) else None


class STOI(_Perceptual):
    """Measure `stoi`: short-time objective intelligibility (Taal et al., 2011), 0 to 1.

    Targets with less than 0.4 s of speech get no score.
    """

    name = "stoi"
    score_names = ("stoi",)
    lowest = 0.0

    @property
    def checkpoint(self) -> str:
        """The package."""
        return f"{version('pystoi')}, silence scores {self.lowest:.0f}"

    def load(self) -> None:
        """Check that the package is there.

        Raises:
            ImportError: pystoi is not installed.
        """
        try:
            import pystoi  # noqa: F401
        except ImportError:
            raise ImportError("STOI needs pystoi: pip install 'focallm[eval]'") from None

    def score(self, target: np.ndarray, audio: np.ndarray) -> float | None:
        """Measure the score."""
        from pystoi import stoi

        with warnings.catch_warnings():
            # It warns about a target that is too short, or raises an error.
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                value = float(stoi(target, audio, RATE))
            except ValueError:
                return None
        return value if np.isfinite(value) and value != _PYSTOI_TOO_SHORT else None


def mel_distance(target: np.ndarray, audio: np.ndarray, rate: int) -> float:
    """Compute the mean absolute difference of log-mel spectrograms.

    Args:
        target: (T,) at `rate`.
        audio: (T,) at `rate`.
        rate: Sampling rate in Hz.

    Returns:
        The distance in nats of magnitude. Magnitudes below 1e-5 count as silence; NaN if the whole target is silent.
    """
    target_mel = log_mel(_tensor(target)[None], rate, 1024, 320, 80)
    if target_mel.min() == target_mel.max():
        return math.nan
    audio_mel = log_mel(_tensor(audio)[None], rate, 1024, 320, 80)
    return float((target_mel - audio_mel).abs().mean())


def stft_distance(target: np.ndarray, audio: np.ndarray) -> float:
    """Compute the multi-resolution STFT distance (Yamamoto et al., 2020, arXiv 1910.11480, eq. 4 to 6).

    It is the sum of spectral convergence and mean absolute difference of log magnitudes, averaged over three windows.

    Args:
        target: (T,).
        audio: (T,).

    Returns:
        The distance. Magnitudes below 1e-5 count as silence; NaN if the whole target is silent.
    """
    distances = []
    for size in _STFT_SIZES:
        x = _magnitudes(_tensor(target), size)
        y = _magnitudes(_tensor(audio), size)
        if x.max() < _FLOOR:
            return math.nan
        convergence = (x - y).norm() / x.norm()
        log_difference = (x.clamp(min=_FLOOR).log() - y.clamp(min=_FLOOR).log()).abs().mean()
        distances.append(convergence + log_difference)
    return float(torch.stack(distances).mean())


def si_sdr(target: np.ndarray, audio: np.ndarray) -> float:
    """Compute the scale-invariant signal-to-distortion ratio (Le Roux et al., 2019, arXiv 1811.02508, eq. 5).

    Args:
        target: (T,); its mean is removed.
        audio: (T,); its mean is removed.

    Returns:
        The ratio in dB, from -100 for audio that holds nothing of the target, such as silence, to 100. NaN for a target
        without sound.
    """
    if not has_sound(target):
        return math.nan
    if not has_sound(audio):
        return -_MAX_SI_SDR
    s = target.astype(np.float64) - target.mean(dtype=np.float64)
    x = audio.astype(np.float64) - audio.mean(dtype=np.float64)
    projection = (x @ s) / (s @ s) * s
    noise = x - projection
    power = projection @ projection
    noise_power = noise @ noise
    if power == 0 or noise_power == 0:
        return -_MAX_SI_SDR if power == 0 else _MAX_SI_SDR
    return float(np.clip(10 * np.log10(power / noise_power), -_MAX_SI_SDR, _MAX_SI_SDR))


def _magnitudes(wave: Tensor, size: int) -> Tensor:
    """Compute the STFT magnitudes of (T,)."""
    # Zeros, because padding by reflection fails for waves shorter than half a window.
    padded = torch.nn.functional.pad(wave, (size // 2, size // 2))
    window = torch.hann_window(size)
    spectrum: Any = torch.stft(padded, size, size // 4, window=window, center=False, return_complex=True)
    return spectrum.abs()


def _tensor(wave: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(wave, np.float32))
