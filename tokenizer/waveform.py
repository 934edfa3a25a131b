"""Arrays of audio: down-mix, scale and resample them. T samples, C channels; samples are float32 in [-1, 1]."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

Waveform = NDArray[np.float32]

# Integer PCM: the value of silence, and full scale.
_PCM = {"uint8": (128.0, 128.0), "int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31)}
_MAX_CHANNELS = 8  # 7.1 surround; an array with more is more likely a batch
_NARROW_BAND = 0.7  # a rate below this share of the codec's is worth a warning


def to_mono_float(array: ArrayLike | torch.Tensor) -> Waveform:
    """Convert one waveform to mono.

    Args:
        array: (T,), (C, T) or (T, C), where the smaller axis is that of the channels. int16, int32 and uint8 are taken
            as integer PCM and scaled to [-1, 1]; floats are not scaled.

    Returns:
        (T,) float32, the mean of the channels.

    Raises:
        ValueError: The type or shape is another one, or there are no samples, or NaN or infinite ones.
    """
    if isinstance(array, torch.Tensor):
        tensor = array.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()  # numpy has no bfloat16
        array = tensor.numpy()
    wave = np.asarray(array)
    if wave.size == 0:
        raise ValueError("the audio is empty (0 samples): leave it out")
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and min(wave.shape) > _MAX_CHANNELS):
        raise ValueError(
            f"audio must be (T,), (C, T) or (T, C) with at most {_MAX_CHANNELS} channels, found the shape "
            f"{wave.shape}; pass a batch as a list of waveforms"
        )
    if wave.dtype.name in _PCM:
        silence, scale = _PCM[wave.dtype.name]
        wave = (wave.astype(np.float64) - silence) / scale
    elif not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"audio must be floats in [-1, 1] or int16, int32 or uint8 PCM, found {wave.dtype}")
    if wave.ndim == 2:
        wave = wave.mean(axis=0 if wave.shape[0] <= wave.shape[1] else 1)
    if not np.isfinite(wave).all():
        raise ValueError("the audio holds NaN or infinite samples: repair it or leave it out")
    return np.ascontiguousarray(wave, dtype=np.float32)


def is_batch(audio: Any) -> bool:
    """Return whether `audio` is a list (or another sequence, such as a column of a dataset) of items, not one item.

    A list of numbers is one waveform, and so are arrays and tensors of any shape.
    """
    if not isinstance(audio, Sequence) or isinstance(audio, str | bytes):
        return False
    return len(audio) == 0 or not isinstance(audio[0], int | float | np.number)


def with_rates(audio: Any, sampling_rate: int | list[int] | None, noun: str = "item") -> list[tuple[Any, int | None]]:
    """Pair each recording with its rate.

    Args:
        audio: one recording or a list of them.
        sampling_rate: in Hz, one for all or one each.
        noun: what error messages call a recording.

    Returns:
        Recordings and their rates, which are None where unknown.

    Raises:
        ValueError: There is no recording, or the number of rates differs from that of the recordings.
    """
    items = list(audio) if is_batch(audio) else [audio]
    rates = list(sampling_rate) if isinstance(sampling_rate, list | tuple) else [sampling_rate] * len(items)
    if not items or len(rates) != len(items):
        raise ValueError(
            f"expected at least one {noun}, and one sampling_rate for all or one each, found {len(items)} "
            f"{noun}s and {len(rates)} rates"
        )
    return list(zip(items, rates, strict=True))


def resample_input(wave: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Resample recorded speech to the rate of a codec, as `resample` does.

    Warns once per pair of rates if the recording lacks a good part of the band of the codec.
    """
    resampled = resample(wave, from_rate, to_rate)
    # Several threads may read at a time; `setdefault` lets exactly one of them warn.
    mark = object()
    if from_rate < _NARROW_BAND * to_rate and _warned_rates.setdefault((from_rate, to_rate), mark) is mark:
        share = 1 - from_rate / to_rate
        logger.warning(
            "audio at %d Hz has no sound above %d Hz: %s of the codec's band up to %d Hz is missing, so speech stays "
            "muffled; use recordings at %d Hz or more where there are any",
            from_rate,
            from_rate // 2,
            "half" if share == 0.5 else f"{share:.0%}",
            to_rate // 2,
            to_rate,
        )
    return resampled


_warned_rates: dict[tuple[int, int], object] = {}


def resample(wave: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Resample a waveform.

    Args:
        wave: (T,).
        from_rate: rate of the waveform in Hz.
        to_rate: rate of the result in Hz.

    Returns:
        (T',) with T' = round(T * to_rate / from_rate), but at least one sample.

    Raises:
        ValueError: A rate is not an integer from 100 to 768000.
        ImportError: The rates differ and soxr is missing.
    """
    for rate in (from_rate, to_rate):
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not 100 <= rate <= 768_000:
            raise ValueError(f"a sampling rate must be an integer from 100 to 768000 Hz, found {rate!r}")
    if from_rate == to_rate:
        return wave
    # Here and not at the top, because the code in the folder of a codec must open where only transformers is installed.
    try:
        import soxr
    except ImportError:
        raise ImportError(
            f"soxr is needed to resample audio from {from_rate} Hz to {to_rate} Hz: pip install soxr"
        ) from None
    size = max(1, round(len(wave) * to_rate / from_rate))
    resampled = soxr.resample(wave, from_rate, to_rate)[:size]
    # soxr may return too few samples, or none, if the waveform is shorter than its filter.
    return np.pad(resampled, (0, size - len(resampled))).astype(np.float32, copy=False)
