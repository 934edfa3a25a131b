"""Audio for clients and from clients."""

import io
import struct

import numpy as np
import pytest
import soundfile

from focallm.tasks.serve.audio_formats import MEDIA_TYPES, AudioEncoder, encode_audio, read_recording
from focallm.tasks.serve.errors import ApiError


def tone(seconds, rate):
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def decoded(content, audio_format):
    if audio_format == "pcm":
        return np.frombuffer(content, "<i2") / 32768, 24000
    return soundfile.read(io.BytesIO(content))


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
@pytest.mark.parametrize("audio_format", MEDIA_TYPES)
def test_a_stream_of_chunks_is_a_file_that_others_read(audio_format, rate):
    audio = tone(1.7, rate)
    encoder = AudioEncoder(audio_format, rate)
    parts = [encoder.encode(audio[start : start + rate // 4]) for start in range(0, len(audio), rate // 4)]
    parts.append(encoder.finish())
    wave, file_rate = decoded(b"".join(parts), audio_format)
    assert file_rate == encoder.sampling_rate
    # MP3 adds the delay of its encoder.
    assert len(wave) / file_rate == pytest.approx(1.7, abs=0.15 if audio_format == "mp3" else 1e-3)
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum.argmax() * file_rate / len(wave) == pytest.approx(220, abs=2)
    if audio_format != "flac":  # its header needs the length
        assert sum(map(len, parts[:3])) > 0


@pytest.mark.parametrize("audio_format", ["wav", "pcm"])
def test_sound_beyond_full_scale_is_clipped(audio_format):
    wave, _ = decoded(encode_audio(np.full(2400, 1.5, np.float32), audio_format, 24000), audio_format)
    assert wave.min() > 0.99


def test_whole_wav_files_state_their_length():
    content = encode_audio(tone(0.5, 16000), "wav", 16000)
    assert struct.unpack("<I", content[40:44])[0] == len(content) - 44 == 16000
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8


@pytest.mark.parametrize("audio_format", MEDIA_TYPES)
def test_speakers_are_channels(audio_format):
    audio = np.stack([tone(0.5, 24000), np.zeros(12000, np.float32)], axis=1)
    wave, _ = decoded(encode_audio(audio, audio_format, 24000), audio_format)
    wave = wave.reshape(-1, 2)
    assert np.abs(wave[:, 0]).max() > 0.25
    assert np.abs(wave[:, 1]).max() < 0.01


def silence(seconds, rate=16000):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(round(seconds * rate), np.int16), rate, format="FLAC")
    return content.getvalue()


def float_wav(*samples):
    content = io.BytesIO()
    soundfile.write(content, np.array(samples * 800, np.float32), 16000, format="WAV", subtype="FLOAT")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "empty"),
        (b"not audio at all", 400, "not audio"),
        (silence(0.5)[:60], 400, "truncated|not audio|damaged"),
        (float_wav(0.1, np.nan), 400, "NaN"),
        (float_wav(0.1, np.inf), 400, "infinite"),
        (silence(0.5, 400_000), 400, "rate"),
        (silence(3600), 413, "lasts 3600.0 s"),  # an hour of silence is a few KB
    ],
    ids=["empty", "text", "cut", "nan", "inf", "rate", "long"],
)
def test_recordings_that_cannot_be_used_are_refused(content, status, message):
    with pytest.raises(ApiError, match=message) as error:
        read_recording(content, 10, "file")
    assert error.value.status_code == status
    assert error.value.detail.startswith("file: ")
