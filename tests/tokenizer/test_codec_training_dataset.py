"""Batches of codec training: clips, whole utterances, augmentation."""

import numpy as np
import pytest
import soundfile
import torch

from focallm.tokenizer import read_audio, write_audio
from focallm.tokenizer.training.config import AugmentationConfig, QuantizerStageConfig
from focallm.tokenizer.training.dataset import AudioRates, ClipDataset, augment, make_batch
from focallm.tokenizer.training.recordings import open_recordings


def files(folder, seconds, rate=16000):
    rng = np.random.default_rng(0)
    for i, s in enumerate(seconds):
        write_audio(folder / f"{i}.wav", (0.1 * rng.standard_normal(int(s * rate))).astype(np.float32), rate)
    return sorted(folder.glob("*.wav"))


def clips(paths, rates=AudioRates(), in_memory=True, texts=None, share=(0, 1), **values) -> ClipDataset:  # noqa: B008
    config = QuantizerStageConfig(**{"batch_size": 4, "clip_seconds": 0.25, **values})
    recordings, texts = open_recordings(paths, rates.output, in_memory, texts)
    return ClipDataset(recordings, config, rates, texts, *share)


def test_a_batch_depends_only_on_the_seed_and_the_step(tmp_path):
    paths = files(tmp_path, (0.5, 1.0, 0.01))
    a, b = (clips(paths, augmentation=AugmentationConfig(0.1, 6.0, 0.5)) for _ in range(2))
    assert a.seconds == pytest.approx(1.5)  # 10 ms are too short
    assert a.steps_per_epoch == 2
    a[0]
    assert torch.equal(a[5].input_audio, b[5].input_audio)
    assert not torch.equal(a[5].input_audio, a[6].input_audio)
    assert not torch.equal(
        a[5].input_audio, clips(paths, augmentation=AugmentationConfig(speed=0.1), seed=1)[5].input_audio
    )
    assert a[5].input_audio.shape == (4, 3840)  # 0.25 s in whole frames
    assert a[5].input_audio.abs().max() <= 1


def test_processes_share_the_batch_of_a_single_process(tmp_path):
    paths = files(tmp_path, (1.0, 1.0))
    halves = [clips(paths, share=(i, 2))[3].input_audio for i in range(2)]
    assert torch.equal(torch.cat(halves), clips(paths)[3].input_audio)
    with pytest.raises(ValueError, match=r"batch_size \(4\) is not a multiple of the 3 processes"):
        clips(paths, share=(0, 3))


def test_clips_from_disk_equal_those_from_memory(tmp_path):
    paths = files(tmp_path, (1.0, 2.0))
    a, b = (
        clips(paths, in_memory=kept, augmentation=AugmentationConfig(speed=0.1))[0].input_audio
        for kept in (True, False)
    )
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("in_memory", [True, False])
def test_loud_peaks_are_clipped_and_never_turned_over(tmp_path, in_memory):
    loud = 3 * np.sin(2 * np.pi * 300 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "float.wav", loud, 44100, subtype="FLOAT")
    soundfile.write(tmp_path / "clipped.wav", loud.clip(-1, 1), 44100)  # resampling overshoots its edges
    for path in (tmp_path / "float.wav", tmp_path / "clipped.wav"):
        recordings, _ = open_recordings([path], 16000, in_memory)
        expected = read_audio(path, 16000)[0].clip(-1, 1)
        np.testing.assert_allclose(recordings[0].read(0, 16000), expected, atol=1e-3)


@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_files_are_listed_counted_and_left_out(tmp_path, caplog, in_memory):
    (good,) = files(tmp_path, (0.5,))
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "folder.wav").mkdir()
    data = good.read_bytes()
    (tmp_path / "half.wav").write_bytes(data[: len(data) // 2])
    soundfile.write(tmp_path / "half.flac", np.zeros(40000), 16000)
    (tmp_path / "half.flac").write_bytes((tmp_path / "half.flac").read_bytes()[:-20])
    paths = sorted(tmp_path.glob("*.*"))
    recordings, texts = open_recordings(paths, 16000, in_memory, [path.name for path in paths])
    assert (len(recordings), texts) == (1, [good.name])
    assert caplog.messages[-1] == "4 of 5 audio files cannot be read and are left out"
    assert {message.split(":")[0] for message in caplog.messages[:-1]} == {
        f"left out {tmp_path / name}" for name in ("text.wav", "folder.wav", "half.wav", "half.flac")
    }
    with pytest.raises(ValueError, match="none of the 4 audio files lasts 50 ms or more; 4 of them cannot be read"):
        open_recordings([path for path in paths if path != good], 16000, in_memory)


def test_a_file_that_is_damaged_later_gives_silence_and_a_warning(tmp_path, caplog):
    (path,) = files(tmp_path, (1.0,))
    dataset = clips([path], in_memory=False)
    path.unlink()
    assert not dataset[0].target_audio.any()
    assert "gives a clip of silence: there is no audio file" in caplog.messages[0]


def test_files_of_another_rate_are_read_from_disk_at_the_right_pitch(tmp_path):
    tone = np.sin(2 * np.pi * 500 * np.arange(24000) / 24000).astype(np.float32)
    write_audio(tmp_path / "a.wav", tone, 24000)
    batch = clips([tmp_path / "a.wav"], in_memory=False, clip_seconds=0.5)[0].input_audio
    peaks = torch.fft.rfft(batch * torch.hann_window(8000)).abs().argmax(dim=1) * 2
    assert peaks.tolist() == [500] * 4


def test_speed_moves_the_pitch_and_keeps_the_size(tmp_path):
    write_audio(tmp_path / "a.wav", np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype(np.float32), 16000)
    batch = clips([tmp_path / "a.wav"], batch_size=40, clip_seconds=0.5, augmentation=AugmentationConfig(speed=0.2))[
        0
    ].input_audio
    peaks = torch.fft.rfft(batch * torch.hann_window(8000)).abs().argmax(dim=1) * 2  # Hz
    assert batch.shape == (40, 8000)
    assert 500 / 1.21 < peaks.min() < 440
    assert 560 < peaks.max() < 500 * 1.21


def test_batches_have_both_rates_of_a_codec(tmp_path):
    batch = clips(files(tmp_path, (1.0,), 24000), AudioRates(16000, 24000, 320))[0]
    assert (batch.input_audio.shape, batch.target_audio.shape) == ((4, 3840), (4, 5760))


def test_whole_utterances_are_drawn_once_per_epoch_in_batches_of_similar_length(tmp_path):
    paths = files(tmp_path, np.linspace(0.1, 0.9, 9))
    texts = [str(i) for i in range(9)]
    c = clips(paths, texts=texts, clip_seconds=0.0, max_seconds=0.85)
    assert c.steps_per_epoch == 2
    epochs = [[c[step].texts for step in (2 * e, 2 * e + 1)] for e in range(3)]
    assert all(sorted(t for batch in epoch for t in batch) == texts[:8] for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]
    batch = c[0]
    assert batch.lengths.tolist() == [round(16000 * (0.1 + 0.1 * int(t))) for t in batch.texts]
    assert batch.input_audio.shape[1] == batch.lengths.max() < 2.5 * batch.lengths.min() + 4000


def test_augmentation_tilts_and_reverberates_within_full_scale():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(16000).astype(np.float32)
    bands = lambda x: [np.abs(np.fft.rfft(x))[a:b].mean() for a, b in ((60, 120), (6000, 8000))]  # noqa: E731
    ratios = [
        np.divide(*bands(augment(noise, 16000, np.random.default_rng(i), AugmentationConfig(tilt_db=12.0))[1]))
        for i in range(20)
    ]
    assert max(ratios) / min(ratios) > 10 ** (20 / 20)  # both directions
    click = np.zeros(16000, np.float32)
    click[0] = 1
    _, wet = augment(click, 16000, np.random.default_rng(1), AugmentationConfig(reverb_probability=1.0))
    assert wet.dtype == np.float32
    assert np.abs(wet).max() <= 1
    early, late = (np.square(wet[a:b]).sum() for a, b in ((1, 800), (4000, 8000)))
    assert early > 10 * late > 0 or late == 0


def test_a_batch_has_the_lengths_of_its_signals():
    batch = make_batch([np.ones(100, np.float32), np.ones(50, np.float32)], AudioRates())
    assert batch.lengths.tolist() == [100, 50]
    assert batch.input_audio.sum() == 150


def test_noise_of_a_folder_is_added_at_the_level_of_the_recipe(tmp_path):
    rng = np.random.default_rng(0)
    write_audio(tmp_path / "a.wav", (0.01 * rng.standard_normal(1000)).astype(np.float32), 16000)
    clip = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    config = AugmentationConfig(noise=str(tmp_path), noise_probability=1.0, noise_snr_db=(10.0, 10.0))
    _, plain = augment(clip, 16000, np.random.default_rng(1), AugmentationConfig())
    clean, noisy = augment(clip, 16000, np.random.default_rng(1), config)
    scale = float(noisy @ plain / (plain @ plain))  # the random level of the clip
    np.testing.assert_allclose(clean / scale, plain, atol=0.02)
    noise = noisy / scale - plain
    assert 10 * np.log10((plain**2).mean() / (noise**2).mean()) == pytest.approx(10, abs=0.5)
    with pytest.raises(ValueError, match="has no recordings"):
        augment(clip, 16000, rng, AugmentationConfig(noise=str(tmp_path.parent), noise_probability=1.0))
