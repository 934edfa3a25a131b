"""Simulated rooms (image source method, pyroomacoustics). T samples."""

import importlib.util

import numpy as np
from numpy.typing import NDArray

from ...tokenizer.audio import Waveform

_SMALLEST_M, _LARGEST_M = (3.0, 3.0, 2.4), (12.0, 10.0, 4.5)  # length, width, height
_ABSORPTION = (0.2, 0.9)  # of the walls' energy; harder walls take seconds to simulate
_DISTANCE_M = (0.5, 2.5)  # of the mouth to the microphone
_WALL_M = 0.3  # to the nearest wall


def check_extra() -> None:
    """Raise ImportError, with what to install, if rooms cannot be simulated."""
    if importlib.util.find_spec("pyroomacoustics") is None:
        raise ImportError(
            "room_probability above 0 needs pyroomacoustics, which is not installed: pip install 'focallm[rooms]', or "
            "set room_probability to 0"
        )


def reverberate(wave: Waveform, rate: int, rt60_s: float, rng: np.random.Generator) -> tuple[Waveform, float]:
    """Put speech into a room drawn at random -> (T,) and the distance of the microphone in metres.

    The direct sound in the result is `wave` itself: as loud and at the same sample.

    Args:
        rt60_s: reverberation time by Sabine's formula; in such an empty box the measured one is somewhat longer.
    """
    response, distance = _impulse_response(rate, rt60_s, rng)
    size = len(wave) + len(response) - 1
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32), distance


def _impulse_response(rate: int, rt60_s: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """-> the response from the arrival of the direct sound on, which is 1 there, and the distance in metres"""
    import pyroomacoustics as pra  # late: an extra

    pra.constants.set("num_threads", 1)  # sums of several threads would depend on their number
    sound = pra.constants.get("c")
    dimensions, absorption, order = _draw_room(pra, rt60_s, rng)
    # A whole number of samples, so that the direct sound is one sample and not an interpolation around it.
    delay = round(rng.uniform(*_DISTANCE_M) / sound * rate)
    distance = delay * sound / rate
    microphone, mouth = _draw_places(dimensions, distance, rng)
    room = pra.ShoeBox(dimensions, fs=rate, materials=pra.Material(absorption), max_order=order)
    room.add_source(mouth)
    room.add_microphone(microphone)
    room.compute_rir()
    response = room.rir[0][0][delay + pra.constants.get("frac_delay_length") // 2 :]
    return response / response[0], distance


def _draw_room(pra, rt60_s: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], float, int]:  # type: ignore[no-untyped-def]
    """-> dimensions in metres, absorption, order of reflections"""
    while True:
        dimensions = rng.uniform(_SMALLEST_M, _LARGEST_M)
        volume = dimensions.prod()
        surface = 2 * (volume / dimensions).sum()
        sabine = 24 * np.log(10) / pra.constants.get("c") * volume / (surface * rt60_s)
        if _ABSORPTION[0] <= sabine <= _ABSORPTION[1]:
            absorption, order = pra.inverse_sabine(rt60_s, dimensions)
            return dimensions, absorption, order


def _draw_places(
    dimensions: NDArray[np.float64], distance: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """-> microphone and mouth, at this distance and both inside the room"""
    while True:
        microphone = rng.uniform(_WALL_M, dimensions - _WALL_M)
        direction = rng.standard_normal(3)
        mouth = microphone + direction * distance / np.linalg.norm(direction)
        if (mouth > _WALL_M).all() and (mouth < dimensions - _WALL_M).all():
            return microphone, mouth
