"""Signal processing of a `Mixer`: simulated rooms, and a shift of pitch and formants.

Signals are float32 waveforms of T samples; N is the number of frames and F the number of frequency bins.
"""

import importlib.util

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...tokenizer.waveform import Waveform, resample

# Length, width and height of the rooms.
_SMALLEST_ROOM_M = (3.0, 3.0, 2.4)
_LARGEST_ROOM_M = (12.0, 10.0, 4.5)
_WALL_ABSORPTION = (0.2, 0.9)  # share of the energy; rooms with harder walls take seconds to simulate
_MICROPHONE_DISTANCE_M = (0.5, 2.5)
_WALL_DISTANCE_M = 0.3

_STFT_WINDOW_S = 0.032
# The lifter falls from 1 to 0 between these quefrencies, which are below the period of a high voice: the envelope
# then follows formants but no harmonics.
_LIFTER_START_S = 0.001
_LIFTER_END_S = 0.002
_STRETCH_HOP_S = 0.02
_STRETCH_SLACK_S = 0.01  # covers a period of a low voice
_DITHER = 1e-4  # relative to the peak; fills the band that is empty when a voice is lowered


# Rooms


def check_room_simulator() -> None:
    """Check that rooms can be simulated.

    Raises:
        ImportError: The extra is not installed.
    """
    if importlib.util.find_spec("pyroomacoustics") is None:
        raise ImportError(
            "room_probability above 0 needs pyroomacoustics, which is not installed: pip install 'focallm[rooms]', or "
            "set room_probability to 0"
        )


def reverberate(wave: Waveform, rate: int, rt60_s: float, rng: np.random.Generator) -> tuple[Waveform, float]:
    """Add the reverberation of a random room, simulated with the image source method (pyroomacoustics).

    The direct sound is the input itself, at the same level and the same sample.

    Args:
        wave: (T,) dry speech.
        rate: its sampling rate in Hz.
        rt60_s: reverberation time by Sabine's formula. In an empty box the measured one is somewhat longer.
        rng: generator of the draws.

    Returns:
        (T,) reverberant speech, and the distance of the microphone in meters.
    """
    response, distance = _impulse_response(rate, rt60_s, rng)
    size = len(wave) + len(response) - 1
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32), distance


def _impulse_response(rate: int, rt60_s: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Return the response from the direct sound on, scaled to 1 there, and the distance in meters."""
    import pyroomacoustics as pra  # an optional extra

    # Sums of several threads would depend on their number.
    pra.constants.set("num_threads", 1)
    speed_of_sound = pra.constants.get("c")
    dimensions, absorption, max_order = _draw_room(pra, rt60_s, rng)
    # The delay is a whole number of samples, so that the direct sound is one sample and not an interpolation.
    delay = round(rng.uniform(*_MICROPHONE_DISTANCE_M) / speed_of_sound * rate)
    distance = delay * speed_of_sound / rate
    microphone, mouth = _draw_positions(dimensions, distance, rng)
    room = pra.ShoeBox(dimensions, fs=rate, materials=pra.Material(absorption), max_order=max_order)
    room.add_source(mouth)
    room.add_microphone(microphone)
    room.compute_rir()
    response = room.rir[0][0][delay + pra.constants.get("frac_delay_length") // 2 :]
    return response / response[0], distance


def _draw_room(pra, rt60_s: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], float, int]:  # type: ignore[no-untyped-def]
    """Return dimensions in meters, the absorption of the walls and the highest order of reflections."""
    while True:
        dimensions = rng.uniform(_SMALLEST_ROOM_M, _LARGEST_ROOM_M)
        volume = dimensions.prod()
        surface = 2 * (volume / dimensions).sum()
        sabine = 24 * np.log(10) / pra.constants.get("c") * volume / (surface * rt60_s)
        if _WALL_ABSORPTION[0] <= sabine <= _WALL_ABSORPTION[1]:
            absorption, max_order = pra.inverse_sabine(rt60_s, dimensions)
            return dimensions, absorption, max_order


def _draw_positions(
    dimensions: NDArray[np.float64], distance: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions of microphone and mouth, at this distance and both inside the room."""
    while True:
        microphone = rng.uniform(_WALL_DISTANCE_M, dimensions - _WALL_DISTANCE_M)
        direction = rng.standard_normal(3)
        mouth = microphone + direction * distance / np.linalg.norm(direction)
        if (mouth > _WALL_DISTANCE_M).all() and (mouth < dimensions - _WALL_DISTANCE_M).all():
            return microphone, mouth


# Pitch and formants


def shift_pitch_and_formants(
    wave: Waveform, rate: int, pitch_factor: float, formant_factor: float, rng: np.random.Generator
) -> Waveform:
    """Multiply the pitch and the formants of speech by two independent factors. Returns (T,), with the same timing.

    Resampling moves pitch and formants together. Only the excitation of the resampled signal is used, stretched back
    to T samples; it is filtered with the envelope of the original, whose frequencies are scaled.
    """
    resampled = resample(wave, round(rate * pitch_factor), rate)
    shifted = time_stretch(resampled, len(wave), rate)
    dither = rng.standard_normal(len(wave)).astype(np.float32)
    shifted = shifted + np.abs(shifted).max() * _DITHER * dither
    spectrum = _stft(shifted, rate)
    excitation = spectrum / torch.exp(_log_envelope(spectrum, rate))
    envelope = _scale_frequencies(_log_envelope(_stft(wave, rate), rate), formant_factor)
    return _istft(excitation * torch.exp(envelope), len(wave), rate)


def time_stretch(wave: Waveform, length: int, rate: int) -> Waveform:
    """Change the duration but not the pitch: overlap-add windows where they fit best (WSOLA). Returns (length,)."""
    hop = round(_STRETCH_HOP_S * rate)
    slack = round(_STRETCH_SLACK_S * rate)
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    padded = np.pad(wave, (hop + slack, 4 * hop + slack))
    out = np.zeros(length + 3 * hop, np.float32)
    # The natural continuation of the last window; the next window is the one that resembles it most.
    continuation = padded[slack : slack + 2 * hop]
    for out_start in range(0, length + hop, hop):
        start = round(out_start * len(wave) / length)
        start = min(start, len(padded) - 3 * hop - 2 * slack)
        candidates = padded[start : start + 2 * (hop + slack)]
        best = start + int(np.argmax(np.correlate(candidates, continuation, "valid")))
        out[out_start : out_start + 2 * hop] += window * padded[best : best + 2 * hop]
        continuation = padded[best + hop : best + 3 * hop]
    return out[hop : hop + length]


def _log_envelope(spectrum: Tensor, rate: int) -> Tensor:
    """(F, N) complex -> (F, N): the log spectrum smoothed over frequency, by liftering its cepstrum."""
    size = 2 * (len(spectrum) - 1)
    # The floor avoids the logarithm of zero.
    cepstrum = torch.fft.irfft(torch.log(spectrum.abs() + 1e-7), n=size, dim=0)
    quefrency_s = torch.arange(size).minimum(size - torch.arange(size)) / rate
    fall = ((quefrency_s - _LIFTER_START_S) / (_LIFTER_END_S - _LIFTER_START_S)).clamp(0, 1)
    lifter = 0.5 + 0.5 * torch.cos(torch.pi * fall)
    return torch.fft.rfft(cepstrum * lifter[:, None], dim=0).real


def _scale_frequencies(envelope: Tensor, factor: float) -> Tensor:
    """(F, N) -> (F, N). The value at bin f moves to bin f * factor."""
    last = len(envelope) - 1
    source_bins = (torch.arange(last + 1) / factor).clamp(max=last)
    low = source_bins.floor().long().clamp(max=last - 1)
    return torch.lerp(envelope[low], envelope[low + 1], (source_bins - low)[:, None])


def _stft(wave: Waveform, rate: int) -> Tensor:
    window = _stft_window(rate)
    return torch.stft(
        torch.from_numpy(wave), len(window), len(window) // 4, window=window, pad_mode="constant", return_complex=True
    )


def _istft(spectrum: Tensor, length: int, rate: int) -> Waveform:
    window = _stft_window(rate)
    return torch.istft(spectrum, len(window), len(window) // 4, window=window, length=length).numpy()


def _stft_window(rate: int) -> Tensor:
    return torch.hann_window(4 * round(_STFT_WINDOW_S * rate / 4))
