"""Read and write files of audio. T samples; samples are float32 in [-1, 1]."""

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import ArrayLike

from .files import printable, write_whole
from .waveform import Waveform, resample_input, to_mono_float

# Formats that `write_audio` supports, by suffix: soundfile's format and subtype.
_WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
_BLOCK = 1 << 18  # samples read or written at a time; libsndfile crashes on Vorbis blocks of a minute
_UNKNOWN_LENGTH = 1 << 62  # libsndfile reports at least this length if a header states none
_STREAMED_WAV = 0x7FFF0000  # sizes from here on mean "unknown when the header was written"
_MAX_FRAMES_PER_BYTE = 1 << 13  # silence in FLAC has up to 5000; a header with more is wrong


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
