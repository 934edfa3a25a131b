"""Audio that clients receive and send: streams in five formats, and recordings of limited length. T samples."""

import io
import struct
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

from ...tokenizer.audio import read_audio, read_header
from ...tokenizer.waveform import Waveform
from .errors import ApiError

AudioFormat = Literal["wav", "flac", "opus", "mp3", "pcm"]

MEDIA_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "pcm": "audio/pcm",
}
# Formats of libsndfile and their subtypes.
_ENCODINGS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}
PCM_RATE = 24_000  # clients of OpenAI play samples without a header at this rate
# Rates that these formats have; audio at another rate is resampled.
_RATES = {
    "opus": (8000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "pcm": (PCM_RATE,),
}
_MAX_RATE = 192_000  # of a recording that a client sends
_SET_OGG_PAGE_LATENCY_MS = 0x1302  # a command of libsndfile
_UNKNOWN_SIZE = 0xFFFFFFFF  # in the header of a WAV file whose length is not known yet


class AudioEncoder:
    """Encodes audio chunk by chunk, while its length is not known yet. FLAC comes as a whole at the end.

    Args:
        audio_format: A key of `MEDIA_TYPES`.
        sampling_rate: Rate of the audio in Hz.
        channels: Number of channels.
    """

    def __init__(self, audio_format: AudioFormat, sampling_rate: int, channels: int = 1) -> None:
        self.sampling_rate = sampling_rate
        self._channels = channels
        self._is_whole = audio_format == "flac"
        self._resampler: soxr.ResampleStream | None = None
        self._file: soundfile.SoundFile | None = None
        self._sink = _Sink()
        rates = _RATES.get(audio_format, (sampling_rate,))
        if sampling_rate not in rates:
            self.sampling_rate = rates[-1]
            self._resampler = soxr.ResampleStream(sampling_rate, self.sampling_rate, channels, dtype="float32")
        if audio_format in _ENCODINGS:
            container, subtype = _ENCODINGS[audio_format]
            options: dict[str, Any] = {"format": container}
            if audio_format == "mp3":
                # Players estimate the length of a stream from its bit rate, so it must be constant.
                options.update(bitrate_mode="CONSTANT", compression_level=0.5)
            self._file = soundfile.SoundFile(self._sink, "w", self.sampling_rate, channels, subtype, **options)
            if audio_format == "opus":
                _shorten_pages(self._file)
        elif audio_format == "wav":
            self._sink.write(_wav_header(sampling_rate, channels))

    def encode(self, audio: Waveform) -> bytes:
        """Return the bytes that are ready after a chunk (T,) or (T, channels); there may be none yet."""
        self._write(audio, is_last=False)
        # The header of FLAC needs the length: soundfile and others cannot read a file that does not state it.
        return b"" if self._is_whole else self._sink.take()

    def finish(self) -> bytes:
        """Return the last bytes. Must be the last call."""
        if self._resampler is not None:
            shape = (0,) if self._channels == 1 else (0, self._channels)
            self._write(np.empty(shape, np.float32), is_last=True)
        if self._file is not None:
            self._file.close()
        return self._sink.take()

    def _write(self, audio: Waveform, is_last: bool) -> None:
        if self._resampler is not None:
            audio = self._resampler.resample_chunk(audio, last=is_last)
        # Integers would wrap around beyond full scale.
        audio = np.clip(audio, -1.0, 1.0)
        if self._file is not None:
            self._file.write(audio)
        else:
            self._sink.write((audio * 32767).round().astype("<i2").tobytes())


def _shorten_pages(file: soundfile.SoundFile) -> None:
    """Let libsndfile write an Ogg page every 0.2 s instead of every second, so that sound comes sooner."""
    # soundfile has no function for this, and without it opus works as well.
    with suppress(AttributeError):
        milliseconds = soundfile._ffi.new("double *", 200.0)
        soundfile._snd.sf_command(file._file, _SET_OGG_PAGE_LATENCY_MS, milliseconds, 8)


class _Sink(io.RawIOBase):
    """The file that an encoder writes to. What was taken has been sent, so later changes to it are dropped.

    At its end, libsndfile writes the length into the header of an MP3 file. Players find the end without it.
    """

    def __init__(self) -> None:
        self._unsent = bytearray()
        self._num_sent = 0
        self._position = 0

    def take(self) -> bytes:
        """Return the bytes that were written since the last call."""
        content = bytes(self._unsent)
        self._num_sent += len(content)
        self._unsent.clear()
        return content

    def write(self, content: object) -> int:
        data = bytes(content)  # type: ignore[call-overload]
        start = self._position - self._num_sent
        self._position += len(data)
        if start < 0:
            data = data[-start:]
            start = 0
        self._unsent[start : start + len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._num_sent + len(self._unsent)
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position


def encode_audio(audio: Waveform, audio_format: AudioFormat, sampling_rate: int) -> bytes:
    """Encode whole audio (T,) or (T, channels)."""
    encoder = AudioEncoder(audio_format, sampling_rate, _num_channels(audio))
    content = encoder.encode(audio) + encoder.finish()
    if audio_format == "wav":
        # The length is known here, and some programs need it.
        return _wav_header(sampling_rate, _num_channels(audio), len(content) - 44) + content[44:]
    return content


def _num_channels(audio: Waveform) -> int:
    """Return the number of channels of audio (T,) or (T, channels)."""
    return 1 if audio.ndim == 1 else audio.shape[1]


def read_recording(content: bytes, max_s: float, param: str) -> tuple[Waveform, int]:
    """Read a recording that a client sent.

    Args:
        content: An audio file.
        max_s: Longest duration in seconds.
        param: Name of the parameter that holds the recording.

    Returns:
        Audio (T,) and its rate in Hz.

    Raises:
        ApiError: The file is no audio, damaged, too long or empty, or holds NaN.
    """
    try:
        # The header first: a small file can hold hours of silence.
        num_frames, rate = read_header(io.BytesIO(content))
        if not 0 < rate <= _MAX_RATE:
            raise ApiError(400, f"{param}: the rate may be up to {_MAX_RATE} Hz, found {rate}", param)
        if num_frames > max_s * rate:
            raise ApiError(
                413,
                f"{param}: the recording lasts {num_frames / rate:.1f} s, this server takes up to {max_s:g} s",
                param,
                "audio_too_long",
            )
        return read_audio(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise ApiError(400, f"{param}: {error}", param, "invalid_audio") from None


def _wav_header(sampling_rate: int, channels: int, size: int | None = None) -> bytes:
    """Return the header of a WAV file of 16-bit samples.

    Args:
        sampling_rate: In Hz.
        channels: Number of channels.
        size: Number of bytes of all samples, or None if it is not known yet.
    """
    frame_size = 2 * channels
    data_size = _UNKNOWN_SIZE if size is None else size
    riff_size = _UNKNOWN_SIZE if size is None else size + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff_size, b"WAVE"),
        *(b"fmt ", 16, 1, channels, sampling_rate, sampling_rate * frame_size, frame_size, 16),
        *(b"data", data_size),
    )
