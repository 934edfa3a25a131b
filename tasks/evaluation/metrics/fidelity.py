"""How near a sound is to its target, sample by sample: distances of spectra, SI-SDR, PESQ, STOI. T samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....tokenizer.focalcodec.mel import log_mel
from .metric import RATE, EvalSample, Metric, Scores, version

_STFT_SIZES = (512, 1024, 2048)  # of windows in samples; hops are a quarter
_FLOOR = 1e-5  # of magnitudes, before their logarithm
_SILENCE = 1e-12
_TOO_SHORT = 1e-5  # what pystoi answers then


class _Fidelity(Metric):
    def fits(self, sound: EvalSample) -> bool:
        """Whether there is a target to compare with."""
        return super().fits(sound) and sound.target is not None and len(sound.target) > 0


class Distances(_Fidelity):
    """`mel` and `stft` distances, and `si_sdr`; they need nothing to be installed."""

    name = "distances"

    @property
    def checkpoint(self) -> str:
        """What is not measured otherwise everywhere."""
        return f"mel of 80 bands, STFT of {_STFT_SIZES} samples"

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The three of each."""
        pairs = [sound.pair(sound.rate) for sound in sounds]
        return [
            {"mel": mel_distance(*pair, sound.rate), "stft": stft_distance(*pair), "si_sdr": si_sdr(*pair)}
            for pair, sound in zip(pairs, sounds, strict=True)
        ]


class PESQ(_Fidelity):
    """`pesq`: wideband PESQ (ITU-T P.862.2), -0.5 to 4.64; nothing where no speech is found."""

    name = "pesq"

    @property
    def checkpoint(self) -> str:
        """The package."""
        return f"{version('pesq')}, wideband"

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The score of each.

        Raises:
            ImportError: the extra is not installed.
        """
        try:
            import pesq
        except ImportError:
            raise ImportError("PESQ needs pesq: pip install 'focallm[eval]'") from None

        def score(sound: EvalSample) -> Scores:
            try:
                with np.errstate(invalid="ignore"):  # it divides by the loudest sample
                    return {"pesq": float(pesq.pesq(RATE, *sound.pair(RATE), "wb"))}
            except pesq.PesqError:  # silence, or shorter than a quarter of a second
                return {}

        return [score(sound) for sound in sounds]


class STOI(_Fidelity):
    """`stoi`: short-time objective intelligibility (Taal et al., 2011), 0 to 1; nothing of silence and of what is
    shorter than 0.4 s."""

    name = "stoi"

    @property
    def checkpoint(self) -> str:
        """The package."""
        return version("pystoi")

    def fits(self, sound: EvalSample) -> bool:
        """Whether there is something to understand."""
        return super().fits(sound) and bool(np.any(sound.target))

    def measure(self, sounds: Sequence[EvalSample]) -> list[Scores]:
        """The score of each.

        Raises:
            ImportError: the extra is not installed.
        """
        try:
            from pystoi import stoi
        except ImportError:
            raise ImportError("STOI needs pystoi: pip install 'focallm[eval]'") from None
        scores = [float(stoi(*sound.pair(RATE), RATE)) for sound in sounds]
        return [{"stoi": score} if score != _TOO_SHORT else {} for score in scores]


def mel_distance(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    """Mean absolute difference of the log-mel spectrograms of (T,) and (T,), in nats of magnitude."""
    x, y = (log_mel(_tensor(wave)[None], rate, 1024, 320, 80) for wave in (a, b))
    return float((x - y).abs().mean())


def stft_distance(target: np.ndarray, audio: np.ndarray) -> float:
    """Spectral convergence and mean absolute difference of log magnitudes of (T,) and (T,), their sum, of three windows
    (Yamamoto et al., 2020, arXiv 1910.11480, eq. 4 to 6)."""

    def distance(size: int) -> Tensor:
        x, y = (_magnitudes(_tensor(wave), size) for wave in (target, audio))
        return (x - y).norm() / x.norm() + (x.log() - y.log()).abs().mean()

    return float(torch.stack([distance(size) for size in _STFT_SIZES]).mean())


def si_sdr(target: np.ndarray, audio: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of (T,) and (T,) without their means (Le Roux et al., 2019,
    arXiv 1811.02508, eq. 5); at most 100."""
    s, x = (wave.astype(np.float64) - wave.mean(dtype=np.float64) for wave in (target, audio))
    projection = (x @ s) / max(s @ s, _SILENCE) * s
    power, noise = projection @ projection + _SILENCE, (x - projection) @ (x - projection)
    return float(10 * np.log10(power / max(noise, 1e-10 * power)))


def _magnitudes(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size)
    padded = torch.nn.functional.pad(wave, (size // 2, size // 2))  # zeros: reflection fails on what is short
    spectrum: Any = torch.stft(padded, size, size // 4, window=window, center=False, return_complex=True)
    return spectrum.abs().clamp(min=_FLOOR)


def _tensor(wave: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(wave, np.float32))
