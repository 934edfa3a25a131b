"""Levels of speech, and noise to mix with it.

Signals are float32 waveforms of T samples; N is the number of frames of 20 ms.
"""

import numpy as np
from numpy.typing import NDArray

from .waveform import Waveform

_LEVEL_FRAME_S = 0.02
_PAUSE_DB = 30.0  # frames this much below the loudest one are pauses

_NOISE_COLORS = {"white": 0.0, "pink": 1.0, "brown": 2.0}  # the power falls with this power of the frequency
_FLAT_BELOW_HZ = 20.0  # without it, most of the power of brown noise would be inaudible
_MODULATION_HZ = (0.5, 8.0)  # the rates of words and syllables


# Levels


def level_frame_size(rate: int) -> int:
    """Return the number of samples in a 20 ms frame at `rate` Hz."""
    return max(1, round(_LEVEL_FRAME_S * rate))


def active_frames(wave: Waveform, rate: int) -> NDArray[np.intp]:
    """Return the indices of the 20 ms frames at most 30 dB below the loudest one: speech without its pauses.

    Raises:
        ValueError: All samples are zero.
    """
    powers = _frame_powers(wave, rate)
    if not powers.any():
        raise ValueError("it is silent: all samples are zero")
    return np.flatnonzero(powers > powers.max() * 10 ** (-_PAUSE_DB / 10))


def active_level_db(wave: Waveform, rate: int) -> float:
    """Return the mean power of the active frames of (T,), in dB of full scale."""
    return _to_db(_frame_powers(wave, rate)[active_frames(wave, rate)].mean())


def level_db(wave: Waveform) -> float:
    """Return the mean power of (T,), in dB of full scale."""
    return _to_db(np.mean(np.square(wave, dtype=np.float64)))


def onset_s(wave: Waveform, rate: int) -> float:
    """Return the time in seconds of the first active frame of (T,)."""
    return float(active_frames(wave, rate)[0]) * level_frame_size(rate) / rate


def amplify(wave: Waveform, gain_db: float) -> Waveform:
    """Multiply (T,) by a gain in dB."""
    return wave * np.float32(10 ** (gain_db / 20))


def _frame_powers(wave: Waveform, rate: int) -> NDArray[np.float64]:
    """(T,) -> (N,). The last frame is padded with zeros."""
    size = level_frame_size(rate)
    framed = np.pad(wave.astype(np.float64), (0, -len(wave) % size)).reshape(-1, size)
    return np.square(framed).mean(axis=1)


def _to_db(power: float | np.floating) -> float:
    return 10 * float(np.log10(power))


# Noise


def cut_noise(wave: Waveform, length: int, rate: int, rng: np.random.Generator) -> Waveform:
    """Cut (length,) from a recording. Start where it is not silent, and repeat it if it is too short."""
    start = int(rng.choice(active_frames(wave, rate))) * level_frame_size(rate)
    return np.resize(np.roll(wave, -start), length)


def colored_noise(length: int, rate: int, rng: np.random.Generator) -> tuple[Waveform, str]:
    """Make white, pink or brown noise. Returns (length,) and the color."""
    color = str(rng.choice(list(_NOISE_COLORS)))
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / rate), _FLAT_BELOW_HZ)
    shaped = spectrum * frequencies ** (-_NOISE_COLORS[color] / 2)
    return np.fft.irfft(shaped, length).astype(np.float32), color


def modulated_noise(length: int, rate: int, rng: np.random.Generator) -> tuple[Waveform, str]:
    """Make colored noise that swells and fades. Returns (length,) and a description: the color and the rate."""
    noise, color = colored_noise(length, rate, rng)
    frequency = rng.uniform(*_MODULATION_HZ)
    phase = rng.uniform(0, 2 * np.pi)
    swell = 0.5 + 0.5 * np.cos(2 * np.pi * frequency * np.arange(length) / rate + phase)
    return (noise * swell).astype(np.float32), f"{color}, {frequency:.2f} Hz"


def babble_noise(voices: list[Waveform], length: int, rate: int, rng: np.random.Generator) -> Waveform:
    """Add up several recordings of speech, all equally loud and each cut at random. Returns (length,)."""
    cuts = []
    for voice in voices:
        cuts.append(amplify(cut_noise(voice, length, rate, rng), -active_level_db(voice, rate)))
    return np.sum(cuts, axis=0, dtype=np.float32)
