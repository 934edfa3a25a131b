"""What makes a few voices sound like more. T samples; everything is drawn from the generator that is given."""

import numpy as np

from ..audio import Waveform

_LEVEL_DB = (-12, 3)
_DECAY_S = (0.1, 0.6)  # time in which the tail of a room falls by 60 dB
_DIRECT_DB = (3, 18)  # level of what comes directly, above the tail


def speed_factor(rng: np.random.Generator, speed: float) -> float:
    """How many seconds of a recording a second of the clip takes: 1 / (1 + speed) ... 1 + speed."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(speed)))


def augment(clip: Waveform, sampling_rate: int, rng: np.random.Generator, tilt_db: float, rooms: float) -> Waveform:
    """(T,) -> (T,): perhaps in a room, through another microphone, at another level, never beyond full scale."""
    if rng.random() < rooms:
        clip = _in_room(clip, sampling_rate, rng)
    if tilt_db:
        clip = _tilt(clip, sampling_rate, rng.uniform(-tilt_db, tilt_db))
    level = 10 ** (rng.uniform(*_LEVEL_DB) / 20)
    return clip * np.float32(min(level, 1 / max(float(np.abs(clip).max(initial=0)), 1e-3)))


def _in_room(clip: Waveform, rate: int, rng: np.random.Generator) -> Waveform:
    """Add a tail: noise that decays exponentially, the usual model of late reverberation."""
    decay = rng.uniform(*_DECAY_S)
    time = np.arange(1, int(decay * rate)) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail *= 10 ** (-rng.uniform(*_DIRECT_DB) / 20) / np.linalg.norm(tail)
    size = len(clip) + len(tail)
    wet = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(np.concatenate([[1.0], tail]), size), size)
    return wet[: len(clip)].astype(np.float32)


def _tilt(clip: Waveform, rate: int, tilt_db: float) -> Waveform:
    """A straight line over the octaves from 60 Hz up: -tilt_db at the bottom, +tilt_db at the top."""
    frequency = np.fft.rfftfreq(len(clip), 1 / rate).clip(min=60)
    octaves = np.log2(frequency / 60) / np.log2(rate / 2 / 60)
    gain = 10 ** (tilt_db * (2 * octaves - 1) / 20)
    return np.fft.irfft(np.fft.rfft(clip) * gain, len(clip)).astype(np.float32)
