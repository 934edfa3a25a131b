"""Fixtures of the tests of `data`."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def make_speech() -> Callable[..., np.ndarray]:
    """`make_speech(rng, seconds, rate)`: something like speech, (T,)."""
    return _speech


def _speech(rng: np.random.Generator, seconds: float, rate: int = 16000) -> np.ndarray:
    """Harmonics of one pitch in syllables, after a silence of up to 0.2 s."""
    time_s = np.arange(int(seconds * rate)) / rate
    pitch = rng.uniform(90, 250)
    wave = sum(np.sin(2 * np.pi * pitch * k * time_s + k * k) / k for k in range(1, 12))
    syllables = np.sin(2 * np.pi * 3 * time_s + rng.uniform(0, 6)) > -0.5
    wave = wave * syllables * (time_s > rng.uniform(0, 0.2)) * rng.uniform(0.03, 0.2)
    return wave + rng.normal(0, 1e-5, len(wave))
