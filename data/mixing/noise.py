"""Noise of any length: cut from recordings, coloured, modulated. T samples."""

import numpy as np

from ...tokenizer.audio import Waveform
from .levels import active_frames, active_level_db, amplify, frame_size

_COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0}  # power falls with this power of the frequency
_LOWEST_HZ = 20.0  # the colours are flat below: the power of brown noise would lie where nobody hears it
_MODULATION_HZ = (0.5, 8.0)  # the rates of words and syllables


def cut(wave: Waveform, length: int, rate: int, rng: np.random.Generator) -> Waveform:
    """(length,) from a recording, beginning at a place that is not silent, and again at its start where it ends."""
    start = int(rng.choice(active_frames(wave, rate))) * frame_size(rate)
    return np.resize(np.roll(wave, -start), length)


def coloured(length: int, rate: int, rng: np.random.Generator) -> tuple[Waveform, str]:
    """White, pink or brown noise -> (length,) and the colour"""
    colour = str(rng.choice(list(_COLOURS)))
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / rate), _LOWEST_HZ)
    return np.fft.irfft(spectrum * frequencies ** (-_COLOURS[colour] / 2), length).astype(np.float32), colour


def modulated(length: int, rate: int, rng: np.random.Generator) -> tuple[Waveform, str]:
    """Coloured noise that swells and fades -> (length,) and its colour with the rate"""
    noise, colour = coloured(length, rate, rng)
    frequency, phase = rng.uniform(*_MODULATION_HZ), rng.uniform(0, 2 * np.pi)
    swell = 0.5 + 0.5 * np.cos(2 * np.pi * frequency * np.arange(length) / rate + phase)
    return (noise * swell).astype(np.float32), f"{colour}, {frequency:.2f} Hz"


def babble(voices: list[Waveform], length: int, rate: int, rng: np.random.Generator) -> Waveform:
    """Several recordings of speech, equally loud, each cut anywhere -> (length,)"""
    cuts = [amplify(cut(voice, length, rate, rng), -active_level_db(voice, rate)) for voice in voices]
    return np.sum(cuts, axis=0, dtype=np.float32)
