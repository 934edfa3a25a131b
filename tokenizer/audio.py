"""Read, down-mix, resample and write audio. T samples, C channels; samples are float32 in [-1, 1]."""

import io
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import ArrayLike, NDArray

from .files import printable, write_whole

logger = logging.getLogger(__name__)

Waveform = NDArray[np.float32]

# Formats that `write_audio` supports, by suffix: soundfile's format and subtype.
_WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
# Integer PCM: the value of silence, and full scale.
_PCM = {"uint8": (128.0, 128.0), "int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31)}
_MAX_CHANNELS = 8  # 7.1 surround; an array with more is more likely a batch
_BLOCK = 1 << 18  # samples read or written at a time; libsndfile crashes on Vorbis blocks of a minute
_UNKNOWN_LENGTH = 1 << 62  # libsndfile reports at least this length if a header states none
_STREAMED_WAV = 0x7FFF0000  # sizes from here on mean "unknown when the header was written"
_MAX_FRAMES_PER_BYTE = 1 << 13  # silence in FLAC has up to 5000; a header with more is wrong
_NARROW_BAND = 0.7  # a rate below this share of the codec's is worth a warning


def read_audio(source: str | Path | BinaryIO, sampling_rate: int | None = None) -> tuple[Waveform, int]:
    """Read a WAV, FLAC, OGG, Opus or MP3 file as mono.

    Args:
        source: path or binary file object.
        sampling_rate: rate in Hz to resample to; by default the rate of the file.

    Returns:
        (T,) float32, the mean of the channels, and its sampling rate in Hz.

    Raises:
        OSError: The file does not exist, is a directory, or cannot be read by soundfile.
        ValueError: The file is empty or truncated, or holds NaN or infinite samples. Truncation is not detected in OGG
            files and in MP3 files without a Xing header, which do not state their length.
    """
    with _open(source) as file:
        name = _name(source)
        wave = _read_mono(file, name)
        rate = file.samplerate
    if not np.isfinite(wave).all():
        raise ValueError(f"{name} holds NaN or infinite samples: repair the file, or leave it out")
    if sampling_rate is None:
        return wave, rate
    return resample_input(wave, rate, sampling_rate), sampling_rate


def read_header(source: str | Path | BinaryIO) -> tuple[int, int]:
    """Read the number of frames and the sampling rate in Hz that the header of a file states.

    Args:
        source: path or binary file object.

    Raises:
        OSError: As in `read_audio`.
        ValueError: The file is empty, or its header states a length that a file of its size cannot have.
    """
    with _open(source) as file:
        return file.frames, file.samplerate


def read_part(source: str | Path | BinaryIO, start: int, size: int) -> Waveform:
    """Read up to `size` frames of a file from `start` on, as mono at the rate of the file.

    Args:
        source: path or binary file object.
        start: first frame.
        size: number of frames.

    Returns:
        (T,) float32, T at most `size` and at least 1.

    Raises:
        OSError: As in `read_audio`.
        ValueError: The file is empty, or has no finite samples there.
    """
    with _open(source) as file:
        try:
            file.seek(start)
            block = file.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            block = np.zeros((0, 1), np.float32)
    if not len(block) or not np.isfinite(block).all():
        raise ValueError(
            f"{_name(source)} is truncated or damaged: it announces frame {start}, but there are no samples; fetch it "
            "again"
        )
    return block.mean(axis=1)


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
    """
    for rate in (from_rate, to_rate):
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not 100 <= rate <= 768_000:
            raise ValueError(f"a sampling rate must be an integer from 100 to 768000 Hz, found {rate!r}")
    if from_rate == to_rate:
        return wave
    size = max(1, round(len(wave) * to_rate / from_rate))
    resampled = soxr.resample(wave, from_rate, to_rate)[:size]
    # soxr may return too few samples, or none, if the waveform is shorter than its filter.
    return np.pad(resampled, (0, size - len(resampled))).astype(np.float32, copy=False)


def check_suffix(path: Path) -> None:
    """Raise a ValueError if audio cannot be written to a file with this suffix."""
    if path.suffix.lower() not in _WRITABLE:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(_WRITABLE)}, found {path.suffix!r}")


def write_audio(path: str | Path, wave: ArrayLike, sampling_rate: int) -> None:
    """Write mono audio as 16-bit WAV, 16-bit FLAC or OGG Vorbis, depending on the suffix.

    Values beyond [-1, 1] are clipped. The file is written as a whole or not at all.

    Raises:
        ValueError: The suffix is another one, or the waveform is empty or holds NaN or infinite samples.
        OSError: The folder does not exist, or the file cannot be written, for instance on a full disk.
    """
    path = Path(path)
    check_suffix(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: create it before writing {path.name}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")
    # Integer formats would wrap around beyond full scale.
    wave = np.clip(to_mono_float(wave), -1.0, 1.0)
    kind, subtype = _WRITABLE[path.suffix.lower()]
    # Encoding in memory leaves it to Python to write the file: libsndfile does not say that a disk is full.
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", sampling_rate, 1, subtype, format=kind) as file:
        for start in range(0, len(wave), _BLOCK):
            file.write(wave[start : start + _BLOCK])
    write_whole(path, content.getvalue())


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


def load_audio(item: Any, sampling_rate: int | None = None) -> tuple[Any, int | None]:
    """Load one item of audio.

    Args:
        item: a path; a row of `datasets`, {"array", "sampling_rate"}, {"bytes", "path"} or {"path"}; a torchcodec
            `AudioDecoder`; or an array or tensor.
        sampling_rate: rate in Hz of items that do not state theirs.

    Returns:
        The unchanged array or tensor, and its rate in Hz, which is None if unknown.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: A row has no audio, or a file is damaged.
    """
    if isinstance(item, str | Path):
        return read_audio(item)
    if isinstance(item, dict):
        if item.get("array") is not None:
            return item["array"], item.get("sampling_rate", sampling_rate)
        if item.get("bytes") is not None:
            return read_audio(io.BytesIO(item["bytes"]))
        if item.get("path") is not None:
            return read_audio(item["path"])
        raise ValueError(f"a row of audio needs 'array', 'bytes' or 'path', found the keys {list(item)}")
    # An AudioDecoder; checking for its class would need an import of torchcodec.
    if hasattr(item, "get_all_samples"):
        samples = item.get_all_samples()
        return samples.data, samples.sample_rate
    return item, sampling_rate


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


def _open(source: str | Path | BinaryIO) -> soundfile.SoundFile:
    """Open audio whose header can be true."""
    name = _name(source)
    file_object: bytes | BinaryIO
    if isinstance(source, str | Path):
        path = Path(source)
        _check_path(path)
        num_bytes = path.stat().st_size
        # Names need not be UTF-8, and libsndfile takes "-" for the standard input.
        file_object = os.fsencode(path.absolute())
    else:
        file_object = source
        start = source.tell()
        num_bytes = source.seek(0, io.SEEK_END)
        source.seek(start)
    try:
        file = soundfile.SoundFile(file_object)
    # soundfile raises a TypeError for samples without a header (.raw).
    except (soundfile.LibsndfileError, TypeError):
        raise _unreadable(source, name) from None
    try:
        _check_length(file, name, num_bytes)
    except ValueError:
        file.close()
        raise
    return file


def _check_length(file: soundfile.SoundFile, name: str, num_bytes: int) -> None:
    """Check the length that a header states, as far as this is possible without reading the samples."""
    if file.frames >= _UNKNOWN_LENGTH:
        raise ValueError(f"{name} does not state its length in its header: write it again with a tool that does")
    if file.frames > _MAX_FRAMES_PER_BYTE * num_bytes:
        raise _truncated(name, file.frames, f"its {num_bytes} bytes hold fewer")
    # Of a truncated WAV file, libsndfile counts only the frames that are left, but its log has the size in the header.
    data = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if data and 0 < int(data[2]) < int(data[1]) < _STREAMED_WAV:
        expected = int(data[1]) * file.frames // int(data[2])
        raise _truncated(name, expected, f"only {file.frames} can be read")


def _truncated(name: str, num_frames: int, found: str) -> ValueError:
    return ValueError(f"{name} is truncated or damaged: it announces {num_frames} frames, but {found}; fetch it again")


def _name(source: str | Path | BinaryIO) -> str:
    """Return what error messages call a source. Bytes that are not UTF-8 are escaped, so that it can be printed."""
    if isinstance(source, str | Path):
        return printable(source)
    return str(getattr(source, "name", "the audio given as bytes"))


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name one audio file")
    if not path.exists():
        raise FileNotFoundError(f"there is no audio file {path}: check the path")
    if not path.is_file():
        raise OSError(f"{path} is not a file, but a device or a pipe: name an audio file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file (0 bytes): leave it out")


def _read_mono(file: soundfile.SoundFile, name: str) -> Waveform:
    """Read a file and check that it is complete. Blocks are mixed down one by one to save memory."""
    # The memory grows with what the file really holds, since its header may announce any length.
    blocks = [np.zeros(0, np.float32)]
    num_read = 0
    try:
        while num_read < file.frames:
            block = file.read(max(1, _BLOCK // file.channels), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            blocks.append(block.mean(axis=1))
            num_read += len(block)
    except soundfile.LibsndfileError:
        pass  # frames are missing, which is reported below
    if num_read < file.frames:
        raise _truncated(name, file.frames, f"only {num_read} can be read")
    if num_read == 0:
        raise ValueError(f"{name} is empty (0 samples): leave it out")
    return np.concatenate(blocks)


def _unreadable(source: str | Path | BinaryIO, name: str) -> OSError:
    """Make an error that shows the first bytes, because the error of libsndfile does not say what is wrong."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            start = file.read(16)
    else:
        source.seek(0)
        start = source.read(16)
    if not start:
        return OSError(f"{name} is empty (0 bytes): leave it out")
    # The signatures of MP4 containers and of AAC frames.
    if start[4:8] == b"ftyp" or start[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return OSError(f"{name} is AAC or MP4 (M4A), which is not supported: convert it to WAV or FLAC first")
    return OSError(
        f"{name} is not audio that can be read (WAV, FLAC, OGG, Opus, MP3): it begins with {start!r}; check the file"
    )
