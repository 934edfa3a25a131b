"""Read, resample and write audio, and explain what is wrong with a file."""

import io
import logging
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from focallm.tokenizer.audio import load_audio, read_audio, read_header, read_part, write_audio
from focallm.tokenizer.waveform import is_batch, resample, to_mono_float


def tone(rate: int, seconds: float = 0.5, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.wav", {}, 1e-4),
        ("f.wav", {"subtype": "FLOAT"}, 1e-7),
        ("u.wav", {"subtype": "PCM_U8"}, 1e-2),
        ("a.flac", {}, 1e-4),
        ("a.ogg", {}, 0.1),
        ("a.mp3", {}, 0.1),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
    ],
)
def test_reads_every_format(tmp_path, name, options, tolerance):
    wave = tone(48000)
    soundfile.write(tmp_path / name, wave, 48000, **options)
    read, rate = read_audio(tmp_path / name)
    assert rate == 48000
    assert read.dtype == np.float32
    assert read.shape == wave.shape
    assert np.abs(read - wave).mean() < tolerance


def test_reads_paths_and_file_objects_and_averages_channels(tmp_path):
    stereo = np.stack([tone(16000), -0.5 * tone(16000)], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 16000)
    from_path, _ = read_audio(str(tmp_path / "s.wav"))
    from_bytes, _ = read_audio(io.BytesIO((tmp_path / "s.wav").read_bytes()))
    assert np.array_equal(from_path, from_bytes)
    assert np.allclose(from_path, stereo.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_resamples_while_reading(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate), rate)
    read, out = read_audio(tmp_path / "a.wav", 16000)
    assert (out, read.dtype, len(read)) == (16000, np.float32, 8000)
    assert np.abs(read - tone(16000))[200:-200].max() < 0.01


@pytest.mark.parametrize("samples", [1, 2, 5, 100])
@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (8000, 16000), (16000, 44100)])
def test_resampling_a_few_samples(samples, source, target):
    out = resample(np.full(samples, 0.3, np.float32), source, target)
    assert len(out) == max(1, round(samples * target / source))
    assert np.isfinite(out).all()


def test_refuses_impossible_rates():
    with pytest.raises(ValueError, match="from 100 to 768000 Hz"):
        resample(np.zeros(4, np.float32), 0, 16000)


def test_a_long_file_is_read_in_blocks(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 700_001).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav")[0], wave)


def half(source, target):
    data = source.read_bytes()
    target.write_bytes(data[: len(data) // 2])


def make_bad_files(folder):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40000).astype(np.float32)
    for suffix in ("wav", "flac", "mp3"):
        soundfile.write(folder / f"whole.{suffix}", noise, 16000)
        half(folder / f"whole.{suffix}", folder / f"half.{suffix}")
    (folder / "text.wav").write_text("this is not audio\n" * 20)
    (folder / "zero.flac").write_bytes(b"")
    soundfile.write(folder / "empty.wav", noise[:0], 16000)
    soundfile.write(folder / "nan.wav", np.float32([0, np.nan]), 16000, subtype="FLOAT")
    (folder / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    (folder / "a.aac").write_bytes(b"\xff\xf1" + bytes(100))
    (folder / "folder.wav").mkdir()
    (folder / "headless.raw").write_bytes(bytes(100))
    os.mkfifo(folder / "pipe.wav")
    for name, announced in (("huge.flac", 2**36 - 1), ("hour.flac", 3600 * 16000)):
        soundfile.write(folder / name, noise, 16000)
        data = bytearray((folder / name).read_bytes())
        # The number of samples in the header of a FLAC file: 36 bits.
        data[21] = data[21] & 0xF0 | announced >> 32
        data[22:26] = (announced & 0xFFFFFFFF).to_bytes(4, "big")
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("missing.wav", FileNotFoundError, "there is no audio file"),
        ("folder.wav", IsADirectoryError, "is a folder"),
        ("text.wav", OSError, "not audio that can be read .* begins with b'this is not"),
        ("half.flac", ValueError, "truncated or damaged: it announces 40000 frames"),
        ("half.wav", ValueError, "truncated or damaged: it announces 40000 frames"),
        ("half.mp3", ValueError, "truncated or damaged"),
        ("huge.flac", ValueError, "announces 68719476735 frames, but its [0-9]+ bytes hold fewer"),
        ("hour.flac", ValueError, "announces 57600000 frames, but only [0-9]+ can be read"),
        ("headless.raw", OSError, "not audio that can be read"),
        ("pipe.wav", OSError, "a device or a pipe"),
        ("zero.flac", ValueError, "empty file"),
        ("empty.wav", ValueError, "empty \\(0 samples\\)"),
        ("nan.wav", ValueError, "NaN or infinite"),
        ("a.m4a", OSError, "AAC or MP4 .* convert"),
        ("a.aac", OSError, "AAC or MP4 .* convert"),
    ],
)
def test_a_bad_file_is_reported_in_one_sentence(tmp_path, name, error, words):
    make_bad_files(tmp_path)
    with pytest.raises(error, match=words) as caught:
        read_audio(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_is_not_believed_beyond_what_the_file_can_hold(tmp_path):
    make_bad_files(tmp_path)
    assert read_header(tmp_path / "whole.flac") == (40000, 16000)
    for name in ("huge.flac", "half.wav"):
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_header(tmp_path / name)
    np.testing.assert_array_equal(
        read_part(tmp_path / "whole.wav", 39990, 100), read_audio(tmp_path / "whole.wav")[0][-10:]
    )
    with pytest.raises(ValueError, match=r"hour\.flac is truncated or damaged: it announces frame 57599999"):
        read_part(tmp_path / "hour.flac", 57599999, 1)


@pytest.mark.parametrize(
    "name",
    ["-", "-o.wav", "a b.wav", "a\nb.wav", os.fsdecode(b"caf\xe9.wav"), f"{'n' * 251}.wav", "7f2c1b9e-0d1a-4c55.wav"],
)
def test_any_file_name_can_be_read_and_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "a.flac", tone(16000), 16000)
    (tmp_path / "a.flac").rename(tmp_path / name)
    assert len(read_audio(name)[0]) == 8000
    if name.endswith(".wav"):
        write_audio(name, tone(16000), 16000)
        assert len(read_audio(Path(name))[0]) == 8000
    Path(name).write_text("no audio")
    with pytest.raises(OSError, match="is not audio") as caught:
        read_audio(name)
    str(caught.value).encode()  # it can be printed


def test_a_narrow_band_is_mentioned_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("focallm.tokenizer.waveform._warned_rates", {})
    for rate in (8000, 8000, 16000, 44100, 8000):
        soundfile.write(tmp_path / "a.wav", tone(rate), rate)
        with caplog.at_level(logging.WARNING, "focallm"):
            read_audio(tmp_path / "a.wav", 16000)
    (message,) = caplog.messages
    assert message.startswith("audio at 8000 Hz has no sound above 4000 Hz: half of the codec's band up to 8000")


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_bad_bytes_are_reported_in_one_sentence(data):
    with pytest.raises(OSError, match="the audio given as bytes is"):
        read_audio(io.BytesIO(data))


def test_a_wav_file_written_to_a_pipe_does_not_count_as_truncated(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"  # "unknown", as written by programs that cannot seek back
    (tmp_path / "a.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "a.wav")[0]) == 8000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".WAV"])
def test_writes_and_reads_back(tmp_path, suffix):
    wave = tone(16000)
    write_audio(tmp_path / f"a{suffix}", wave, 16000)
    read, rate = read_audio(tmp_path / f"a{suffix}")
    assert rate == 16000
    assert len(read) == len(wave)
    assert np.abs(read - wave).max() < (0.1 if suffix == ".ogg" else 1e-4)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]  # no temporary file is left


def test_writing_clips(tmp_path):
    write_audio(tmp_path / "a.wav", np.float32([0, 3, -3, np.float32(1)]), 16000)
    assert np.allclose(read_audio(tmp_path / "a.wav")[0], [0, 1, -1, 1], atol=1e-4)


def test_writes_minutes_of_vorbis(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * 70).astype(np.float32)
    write_audio(tmp_path / "a.ogg", wave, 16000)
    assert len(read_audio(tmp_path / "a.ogg")[0]) == len(wave)


@pytest.mark.parametrize(
    ("name", "wave", "error", "words"),
    [
        ("a.mp4", [0.0], ValueError, "suffix must be one of .wav"),
        ("a.wav", [np.nan], ValueError, "NaN"),
        ("a.wav", [], ValueError, "empty"),
        ("no/a.wav", [0.0], FileNotFoundError, "is not a folder"),
    ],
)
def test_refuses_to_write(tmp_path, name, wave, error, words):
    with pytest.raises(error, match=words):
        write_audio(tmp_path / name, np.array(wave, np.float32), 16000)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", tone(16000), 16000)
    before = (tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr(soundfile.SoundFile, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_audio(tmp_path / "a.wav", tone(16000, 0.1), 16000)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_full_disk_is_named_and_leaves_no_file(tmp_path, suffix):
    # A process that may write only small files meets the errors of a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=rf"nothing was written, check the free space.*a\{suffix}"):
            write_audio(tmp_path / f"a{suffix}", np.random.default_rng(0).uniform(-0.5, 0.5, 160000), 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.int16([0, 16384, -32768]), [0, 0.5, -1]),
        (np.int32([0, 2**30, -(2**31)]), [0, 0.5, -1]),
        (np.uint8([128, 192, 0]), [0, 0.5, -1]),
        (np.float64([0.1, -0.2]), [0.1, -0.2]),
        (np.float16([0.5]), [0.5]),
        ([0.25, -0.25], [0.25, -0.25]),
        (torch.tensor([0.5, 0.25], dtype=torch.bfloat16), [0.5, 0.25]),
        (torch.tensor([0, 16384], dtype=torch.int16), [0, 0.5]),
        (torch.tensor([0.5], requires_grad=True), [0.5]),
        (np.float32([[1, 0, 1], [0, 0, 1]]), [0.5, 0, 1]),  # (C, T)
        (np.float32([[1, 0], [0, 0], [1, 1]]), [0.5, 0, 1]),  # (T, C)
        (np.int16([[16384, 0, 0], [0, 0, 0]]), [0.25, 0, 0]),
        (np.float32([[0.5]]), [0.5]),
    ],
)
def test_any_array_becomes_mono_float(array, expected):
    wave = to_mono_float(array)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert np.allclose(wave, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros((2, 0), np.float32), "empty"),
        (np.float32([0, np.inf]), "NaN or infinite"),
        (np.zeros(4, np.int64), "int64"),
        (np.zeros(4, bool), "bool"),
        (np.zeros(4, np.complex64), "complex64"),
        (np.float32(0.5), "shape"),
        (np.zeros((2, 1, 4), np.float32), "batch as a list"),
        (np.zeros((16, 100), np.float32), "batch as a list"),
    ],
)
def test_refuses_arrays(array, words):
    with pytest.raises(ValueError, match=words):
        to_mono_float(array)


def test_loads_every_kind_of_item(tmp_path):
    wave = tone(16000)
    write_audio(tmp_path / "a.wav", wave, 16000)
    path = tmp_path / "a.wav"
    for item in (path, str(path), {"path": str(path)}, {"bytes": path.read_bytes(), "path": None}):
        loaded, rate = load_audio(item, 8000)  # the rate of the file takes precedence
        assert rate == 16000
        assert np.allclose(loaded, wave, atol=1e-4)
    assert load_audio({"array": wave, "sampling_rate": 8000}) == (wave, 8000)
    assert load_audio(wave, 8000) == (wave, 8000)
    with pytest.raises(ValueError, match="'array', 'bytes' or 'path', found the keys"):
        load_audio({"audio": wave})


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        ([0.1, 0.2], False),
        (np.zeros((2, 3)), False),
        ("a.wav", False),
        ({"path": "a.wav"}, False),
        ([[0.1, 0.2]], True),
        ([np.zeros(3)], True),
        (("a.wav", "b.wav"), True),
        ([], True),
    ],
)
def test_is_batch(audio, expected):
    assert is_batch(audio) == expected
