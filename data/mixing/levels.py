"""Levels of speech and noise in dB of full scale. T samples, F frames."""

import numpy as np
from numpy.typing import NDArray

from ...tokenizer.audio import Waveform

_FRAME_S = 0.02
_GATE_DB = 30.0


def frame_size(rate: int) -> int:
    """Samples of a frame at `rate` Hz."""
    return max(1, round(_FRAME_S * rate))


def active_frames(wave: Waveform, rate: int) -> NDArray[np.intp]:
    """Indices of the 20 ms frames that lie less than 30 dB below the loudest one: speech without its pauses.

    Raises:
        ValueError: all samples are zero.
    """
    powers = _frame_powers(wave, rate)
    if not powers.any():
        raise ValueError("it is silent: all samples are zero")
    return np.flatnonzero(powers > powers.max() * 10 ** (-_GATE_DB / 10))


def active_level_db(wave: Waveform, rate: int) -> float:
    """Mean power of the active frames of (T,), in dB of full scale."""
    return _to_db(_frame_powers(wave, rate)[active_frames(wave, rate)].mean())


def onset_s(wave: Waveform, rate: int) -> float:
    """Seconds from the beginning of (T,) to its first active frame."""
    return float(active_frames(wave, rate)[0]) * frame_size(rate) / rate


def level_db(wave: Waveform) -> float:
    """Mean power of (T,), in dB of full scale."""
    return _to_db(np.mean(np.square(wave, dtype=np.float64)))


def amplify(wave: Waveform, gain_db: float) -> Waveform:
    """(T,) -> (T,)"""
    return wave * np.float32(10 ** (gain_db / 20))


def _frame_powers(wave: Waveform, rate: int) -> NDArray[np.float64]:
    """(T,) -> (F,); the last frame is filled with zeros"""
    size = frame_size(rate)
    framed = np.pad(wave.astype(np.float64), (0, -len(wave) % size)).reshape(-1, size)
    return np.square(framed).mean(axis=1)


def _to_db(power: float) -> float:
    return 10 * float(np.log10(power))
