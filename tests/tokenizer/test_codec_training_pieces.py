"""The pieces of codec training one by one: entropy, schedules, averages, clips, validation."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from focallm.tokenizer import write_audio
from focallm.tokenizer.focalcodec.configuration import QuantizerConfig
from focallm.tokenizer.focalcodec.quantizer import BinarySphericalQuantizer
from focallm.tokenizer.training import CodecTrainingConfig
from focallm.tokenizer.training.augmentation import augment
from focallm.tokenizer.training.average import Average
from focallm.tokenizer.training.dataset import Clips, Rates, make_batch
from focallm.tokenizer.training.entropy import entropy_loss
from focallm.tokenizer.training.recordings import open_recordings
from focallm.tokenizer.training.schedule import NewBob, Schedule
from focallm.tokenizer.training.validation import code_use, edit_distance


def latents(frames: int, bits: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(frames, bits, generator=torch.Generator().manual_seed(seed)), dim=-1)


def quantizer(bits: int) -> BinarySphericalQuantizer:
    return BinarySphericalQuantizer(QuantizerConfig(2**bits))


def by_hand(u, codebook, t, factorised=False):
    """Sums in plain Python; the entropy of a frame also as that of its independent bits."""
    entropy = lambda p: -sum(x * math.log(max(x, 1e-5)) for x in p)  # noqa: E731
    rows = []
    for row in u.tolist():
        scores = [math.exp(-t * sum((a - b) ** 2 for a, b in zip(row, c, strict=True))) for c in codebook.tolist()]
        rows.append([s / sum(scores) for s in scores])
    single = sum(map(entropy, rows)) / len(rows)
    if factorised:
        size = len(u[0]) ** -0.5
        ons = [[1 / (1 + math.exp(-4 * t * size * x)) for x in row] for row in u.tolist()]
        single = sum(entropy([p, 1 - p]) for row in ons for p in row) / len(rows)
    return single, entropy([sum(column) / len(rows) for column in zip(*rows, strict=True)])


@pytest.mark.parametrize("factorised", [False, True])
def test_entropy_is_the_enumeration_by_hand_and_a_frame_is_the_sum_of_its_bits(factorised):
    u, q = latents(5, 3), quantizer(3)
    single, mean = by_hand(u, q.codebook, 10, factorised)
    assert entropy_loss(u, q, inverse_temperature=10).item() == pytest.approx(single - mean, abs=1e-5)


def test_entropy_in_groups_is_exact_for_one_frame_and_a_lower_bound_for_many():
    q = quantizer(6)
    for t in (2.0, 20.0):
        one = latents(1, 6)
        # One frame is its own mean: both terms cancel, however they are grouped.
        assert all(abs(entropy_loss(one, q, t, bits).item()) < 1e-4 for bits in (1, 2, 3, 6))
        many = torch.cat([latents(20, 6)[:, :1].expand(-1, 6), latents(20, 6, 1)])  # bits that depend on each other
        exact, pairs, single = (entropy_loss(many, q, t, bits).item() for bits in (0, 2, 1))
        assert single <= pairs + 1e-5 <= exact + 2e-5


def test_entropy_in_groups_is_exact_where_the_groups_are_independent():
    q = quantizer(4)
    u = 2 * q.codebook.reshape(4, 4, 4) + 0  # every code once: all bits are independent
    u = normalize(u.reshape(16, 4) * torch.tensor([0.2, 0.9, 0.4, 0.6]), dim=-1)
    exact = entropy_loss(u, q, 3.0)
    for bits in (1, 2, 3):
        torch.testing.assert_close(entropy_loss(u, q, 3.0, bits), exact, atol=1e-4, rtol=1e-4)


def test_entropy_in_chunks_has_the_same_value_and_gradient():
    q = quantizer(5)
    a, b = (latents(50, 5).requires_grad_() for _ in range(2))
    whole, parts = entropy_loss(a, q, 5.0), entropy_loss(b, q, 5.0, at_once=3 * 32)
    whole.backward()
    parts.backward()
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(b.grad, a.grad)
    assert a.grad.abs().max() > 1e-3


def test_entropy_never_holds_a_table_of_all_frames_and_codes(monkeypatch):
    sizes, softmax = [], torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: sizes.append(x.numel()) or softmax(x, dim=dim))
    entropy_loss(latents(60, 10).requires_grad_(), quantizer(10), at_once=8 * 1024).backward()
    assert max(sizes) == 8 * 1024
    assert len(sizes) == 2 * 8  # again in the backward pass


def test_entropy_prefers_sure_and_varied_codes():
    q = quantizer(4)
    varied = q.codebook
    collapsed = varied[:1].expand(16, -1)
    assert entropy_loss(varied, q) < entropy_loss(collapsed, q) - 2


def schedule(name: str, **values) -> Schedule:
    model = {"seconds": 0.0}
    recipe = CodecTrainingConfig(
        "teacher", schedule=name, learning_rate=1.0, steps=100, **{"warmup": 1, **model, **values}
    )
    return Schedule(recipe, epoch_steps=10)


def test_cosine_warms_up_and_falls_to_a_twentieth():
    s = schedule("cosine", warmup=10)
    assert s.rate(0) == pytest.approx(0.1)
    assert s.rate(10) > 0.95
    assert s.rate(100) == pytest.approx(0.05)


def test_exponential_falls_once_an_epoch():
    s = schedule("exponential", decay=0.5)
    assert [s.rate(step) for step in (0, 9, 10, 29)] == [1, 1, 0.5, 0.25]


def test_newbob_slows_down_where_the_loss_hardly_improves():
    s = schedule("newbob", decay=0.9)
    rates = []
    for loss in (1.0, 0.9, 0.899, 0.95, 0.9, -1.0, -1.001, -1.1):
        s.observe(loss)
        rates.append(round(s.rate(50), 4))
    assert rates == [1.0, 1.0, 0.9, 0.81, 0.81, 0.81, 0.729, 0.729]
    again = schedule("newbob", decay=0.9)
    again.load_state_dict(s.state_dict())
    assert again.rate(50) == s.rate(50)
    again.observe(-1.1)
    assert again.rate(50) == pytest.approx(0.9**4)


def test_newbob_lets_losses_pass_as_often_as_its_patience():
    newbob, factors = NewBob(0.5, patience=1), []
    for loss in (1.0, 1.0, 1.0, 0.5, 0.5, 0.4, 0.4):
        newbob.observe(loss)
        factors.append(newbob.factor)
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_the_average_follows_and_gives_the_weights_back():
    weight = torch.nn.Parameter(torch.zeros(2))
    average = Average({"w": weight}, decay=0.5)
    for step in range(100, 103):
        with torch.no_grad():
            weight.fill_(1.0)
        average.update(step)
    with average.applied():
        assert weight.tolist() == [0.875, 0.875]
    assert weight.tolist() == [1.0, 1.0]


def files(folder, seconds, rate=16000):
    rng = np.random.default_rng(0)
    for i, s in enumerate(seconds):
        write_audio(folder / f"{i}.wav", (0.1 * rng.standard_normal(int(s * rate))).astype(np.float32), rate)
    return sorted(folder.glob("*.wav"))


def clips(paths, rates=Rates(), in_memory=True, texts=None, share=(0, 1), **values) -> Clips:  # noqa: B008
    values = {"batch_size": 4, "seconds": 0.25, "adversarial_weight": 0.0, **values}
    recordings, said = open_recordings(paths, rates.spoken, in_memory, texts)
    return Clips(recordings, CodecTrainingConfig("decoder", **values), rates, said, *share)


def test_a_batch_depends_on_the_seed_and_the_step_only(tmp_path):
    paths = files(tmp_path, (0.5, 1.0, 0.01))
    a, b = (clips(paths, speed=0.1, tilt_db=6.0, rooms=0.5) for _ in range(2))
    assert a.seconds == pytest.approx(1.5)  # 10 ms are too short
    assert a.epoch_steps == 2
    a[0]
    assert torch.equal(a[5].heard, b[5].heard)
    assert not torch.equal(a[5].heard, a[6].heard)
    assert not torch.equal(a[5].heard, clips(paths, speed=0.1, seed=1)[5].heard)
    assert a[5].heard.shape == (4, 3840)  # 0.25 s in whole frames
    assert a[5].heard.abs().max() <= 1


def test_processes_share_the_batch_of_one(tmp_path):
    paths = files(tmp_path, (1.0, 1.0))
    halves = [clips(paths, share=(i, 2))[3].heard for i in range(2)]
    assert torch.equal(torch.cat(halves), clips(paths)[3].heard)
    with pytest.raises(ValueError, match=r"batch_size \(4\) is not a multiple of the 3 processes"):
        clips(paths, share=(0, 3))


def test_clips_from_disk_are_those_from_memory(tmp_path):
    paths = files(tmp_path, (1.0, 2.0))
    a, b = (clips(paths, in_memory=kept, speed=0.1)[0].heard for kept in (True, False))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_files_of_another_rate_are_read_from_disk_at_the_right_pitch(tmp_path):
    tone = np.sin(2 * np.pi * 500 * np.arange(24000) / 24000).astype(np.float32)
    write_audio(tmp_path / "a.wav", tone, 24000)
    batch = clips([tmp_path / "a.wav"], in_memory=False, seconds=0.5)[0].heard
    peaks = torch.fft.rfft(batch * torch.hann_window(8000)).abs().argmax(dim=1) * 2
    assert peaks.tolist() == [500] * 4


def test_speed_moves_the_pitch_and_keeps_the_size(tmp_path):
    write_audio(tmp_path / "a.wav", np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype(np.float32), 16000)
    batch = clips([tmp_path / "a.wav"], batch_size=40, seconds=0.5, speed=0.2)[0].heard
    peaks = torch.fft.rfft(batch * torch.hann_window(8000)).abs().argmax(dim=1) * 2  # Hz
    assert batch.shape == (40, 8000)
    assert 500 / 1.21 < peaks.min() < 440
    assert 560 < peaks.max() < 500 * 1.21


def test_a_codec_that_speaks_at_another_rate_gets_both(tmp_path):
    batch = clips(files(tmp_path, (1.0,), 24000), Rates(16000, 24000, 320))[0]
    assert (batch.heard.shape, batch.spoken.shape) == ((4, 3840), (4, 5760))


def test_whole_utterances_come_once_an_epoch_beside_others_of_their_length(tmp_path):
    paths = files(tmp_path, np.linspace(0.1, 0.9, 9))
    texts = [str(i) for i in range(9)]
    c = clips(paths, texts=texts, seconds=0.0, crop_seconds=0.1, max_seconds=0.85)
    assert c.epoch_steps == 2
    epochs = [[c[step].texts for step in (2 * e, 2 * e + 1)] for e in range(3)]
    assert all(sorted(t for batch in epoch for t in batch) == texts[:8] for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]
    batch = c[0]
    assert batch.lengths.tolist() == [round(16000 * (0.1 + 0.1 * int(t))) for t in batch.texts]
    assert batch.heard.shape[1] == batch.lengths.max() < 2.5 * batch.lengths.min() + 4000


def test_augmentation_tilts_and_reverberates_within_full_scale():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(16000).astype(np.float32)
    bands = lambda x: [np.abs(np.fft.rfft(x))[a:b].mean() for a, b in ((60, 120), (6000, 8000))]  # noqa: E731
    ratios = [np.divide(*bands(augment(noise, 16000, np.random.default_rng(i), 12.0, 0.0))) for i in range(20)]
    assert max(ratios) / min(ratios) > 10 ** (20 / 20)  # both directions
    click = np.zeros(16000, np.float32)
    click[0] = 1
    wet = augment(click, 16000, np.random.default_rng(1), 0.0, 1.0)
    assert wet.dtype == np.float32
    assert np.abs(wet).max() <= 1
    early, late = (np.square(wet[a:b]).sum() for a, b in ((1, 800), (4000, 8000)))
    assert early > 10 * late > 0 or late == 0


def test_use_of_codes_is_compared_with_even_use():
    even = code_use(torch.randint(64, (4000,), generator=torch.Generator().manual_seed(0)), 64)
    assert even["codes_used"] == 64
    assert even["normalised_entropy"] > 0.99
    few = code_use(torch.randint(64, (40,), generator=torch.Generator().manual_seed(0)), 64)
    assert few["code_share"] == pytest.approx(1, abs=0.25)  # not 40 of 64
    assert code_use(torch.zeros(40, dtype=torch.long), 64)["code_share"] < 0.05


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance(["a", "b"], ["b"]) == 1


def test_a_batch_of_signals_knows_their_lengths():
    batch = make_batch([np.ones(100, np.float32), np.ones(50, np.float32)], Rates())
    assert batch.lengths.tolist() == [100, 50]
    assert batch.heard.sum() == 150
