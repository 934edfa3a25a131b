"""Mixed speech: what was drawn is what can be measured, and it follows from the recipe, the utterance and the copy.

Run as a program (`python test_mixing.py CORPUS NOISE STORE`) this file is the process that gets killed.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from datasets import load_dataset

from focallm.data.corpus import read_corpus
from focallm.data.mixing.audio_effects import (
    active_level_db,
    amplify,
    colored_noise,
    cut_noise,
    disguise_voice,
    level_db,
    onset_s,
    reverberate,
    time_stretch,
)
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer
from focallm.data.token_store import TokenStore, describe
from focallm.data.tokenization import Encoder, tokenize_corpus
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.files import load_config

RATE = 16000
NOISES = {"recorded": 0.4, "coloured": 0.2, "modulated": 0.2, "babble": 0.2}
CONFIGS = {
    "noisy": MixConfig("noisy", copies=2, level_db=(-30, -20), noise=NOISES, snr_db=(-5, 20)),
    "mixture": MixConfig(
        "mixture",
        talkers=(2, 3),
        offset_s=(0, 0.5),
        level_difference_db=(-5, 5),
        noise={"recorded": 0.5},
        snr_db=(0, 9),
    ),
    "disguised": MixConfig("disguised", pitch=(0.7, 1.5), formants=(0.8, 1.2)),
}


def _speech(rng: np.random.Generator, seconds: float, rate: int = RATE) -> np.ndarray:
    """Harmonics of one pitch in syllables, after a silence of up to 0.2 s."""
    time_s = np.arange(int(seconds * rate)) / rate
    pitch = rng.uniform(90, 250)
    wave = sum(np.sin(2 * np.pi * pitch * k * time_s + k * k) / k for k in range(1, 12))
    syllables = np.sin(2 * np.pi * 3 * time_s + rng.uniform(0, 6)) > -0.5
    wave = wave * syllables * (time_s > rng.uniform(0, 0.2)) * rng.uniform(0.03, 0.2)
    return wave + rng.normal(0, 1e-5, len(wave))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine utterances of three speakers, one of them at another rate."""
    root, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    rows = []
    for i in range(9):
        rate = 22050 if i == 4 else RATE
        soundfile.write(root / f"{i}.wav", _speech(rng, rng.uniform(0.5, 1.1), rate), rate)
        rows.append({"id": f"u{i}", "audio": f"{i}.wav", "text": f"number {i}", "speaker": f"s{i % 3}", "page": i})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def noise_folder(tmp_path_factory):
    """A recording with digital silence at both ends, and one shorter than all speech."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(1)
    soundfile.write(root / "long.wav", np.pad(rng.uniform(-0.3, 0.3, 2 * RATE), 3 * RATE), RATE)
    soundfile.write(root / "short.wav", rng.uniform(-0.1, 0.1, 900), RATE)
    return root


@pytest.fixture(scope="module")
def corpus(folder):
    return read_corpus(folder)


@pytest.fixture(scope="module")
def noise(noise_folder):
    return read_corpus(noise_folder)


@pytest.fixture(scope="module")
def codec():
    return AudioTokenizer.from_pretrained("mini")


@pytest.fixture(scope="module")
def stores(corpus, noise, codec, tmp_path_factory):
    """The store of an undisturbed run for each kind."""
    root = tmp_path_factory.mktemp("stores")
    for kind in CONFIGS:
        _tokenize(_mixer(kind, corpus, noise), root / kind, codec, listen=1)
    return root


def _mixer(kind, corpus, noise):
    recipe = CONFIGS[kind]
    return Mixer(recipe, corpus, noise if "recorded" in recipe.noise else ())


def _tokenize(mixer, store, codec, **options):
    options = {"shard_size": 4, "progress": False, "listen": 0, "features": True, **options}
    return tokenize_corpus(mixer, store, codec, **options)


def _hashes(store):
    return [shard["sha256"] for shard in TokenStore(store, verify=True).manifest["shards"]]


def _examples(mixer):
    return [(example := mixer.example(row, RATE), json.loads(example.columns["mix"])) for row in mixer.rows]


# Draws


@pytest.mark.parametrize("kind", CONFIGS)
def test_workers_batches_and_processes_change_no_byte(kind, corpus, noise, codec, stores, tmp_path):
    _tokenize(_mixer(kind, corpus, noise), tmp_path / "one", codec, workers=1, batch_seconds=0.1)
    _tokenize(_mixer(kind, corpus, noise), tmp_path / "four", codec, workers=4, batch_seconds=1000)
    assert _tokenize(_mixer(kind, corpus, noise), tmp_path / "ranks", codec, rank=1, world_size=2) is None
    assert _tokenize(_mixer(kind, corpus, noise), tmp_path / "ranks", codec, rank=0, world_size=2) is not None
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "four") == _hashes(tmp_path / "ranks")
    assert _hashes(tmp_path / "one") == _hashes(stores / kind)


def test_killed_and_run_again_it_ends_with_the_same_hashes(
    folder, noise_folder, corpus, noise, codec, stores, tmp_path
):
    store = tmp_path / "store"
    process = subprocess.Popen([sys.executable, __file__, str(folder), str(noise_folder), str(store)])
    deadline = time.monotonic() + 60
    while not (store / "progress" / "shard-00000.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it made no shard in a minute"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    assert not (store / "manifest.json").exists()
    _tokenize(_mixer("noisy", corpus, noise), store, codec)
    assert _hashes(store) == _hashes(stores / "noisy")


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_example_depends_on_recipe_utterance_and_copy_only(kind, corpus, noise):
    forwards = [example for example, _ in _examples(_mixer(kind, corpus, noise))]
    mixer = _mixer(kind, corpus, noise)
    for row, expected in reversed(list(zip(mixer.rows, forwards, strict=True))):
        example = mixer.example(row, RATE)
        assert example.columns == expected.columns
        for a, b in zip(example.signals, expected.signals, strict=True):
            np.testing.assert_array_equal(a, b)
    other = Mixer(dataclasses.replace(mixer.config, seed=1), corpus, mixer.noise)
    assert all(
        example.columns["mix"] != e.columns["mix"] for (example, _), e in zip(_examples(other), forwards, strict=True)
    )
    assert len({example.columns["mix"] for example in forwards}) == len(forwards) == 9 * mixer.config.copies


# Noise


def test_noise_is_as_loud_as_was_drawn(corpus, noise):
    examples = _examples(Mixer(dataclasses.replace(CONFIGS["noisy"], copies=8), corpus, noise))
    assert {facts["noise"] for _, facts in examples} == set(NOISES)
    for example, facts in examples:
        assert len(example.input_audio) == len(example.target)
        snr_db = active_level_db(example.target, RATE) - level_db(example.input_audio - example.target)
        assert snr_db == pytest.approx(facts["snr_db"], abs=0.1)
        assert -5 <= facts["snr_db"] <= 20
        peak = max(abs(example.input_audio).max(), abs(example.target).max())
        assert peak <= 1 + 1e-6
        assert peak == pytest.approx(1) or -30 <= active_level_db(example.target, RATE) <= -20
    clean, _ = corpus[0].read(RATE)
    np.testing.assert_allclose(examples[0][0].target, amplify(clean, examples[0][1]["gain_db"]), rtol=1e-4)


def test_speech_is_measured_without_its_pauses_and_noise_with_them():
    tone = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    wave = np.concatenate([np.zeros(RATE), tone, 1e-3 * tone, np.zeros(RATE)]).astype(np.float32)
    assert active_level_db(wave, RATE) == pytest.approx(-3.01, abs=0.01)
    assert level_db(wave) == pytest.approx(-9.03, abs=0.01)
    assert onset_s(wave, RATE) == pytest.approx(1.0, abs=0.02)
    assert active_level_db(tone[:10], RATE) < 0  # shorter than a frame
    with pytest.raises(ValueError, match="silent"):
        active_level_db(np.zeros(5, np.float32), RATE)


def test_loud_mixtures_are_scaled_as_a_whole(corpus):
    recipe = MixConfig("noisy", level_db=(-3, -3), noise={"coloured": 1}, snr_db=(-5, -5))
    for example, facts in _examples(Mixer(recipe, corpus)):
        assert max(np.abs(s).max() for s in example.signals) == pytest.approx(1, abs=1e-5)
        snr_db = active_level_db(example.target, RATE) - level_db(example.input_audio - example.target)
        assert snr_db == pytest.approx(-5, abs=0.1)
        np.testing.assert_allclose(
            example.target, amplify(example.utterance.read(RATE)[0], facts["gain_db"]), atol=1e-4
        )


def test_babble_is_of_other_speakers(corpus):
    recipe = MixConfig("noisy", copies=4, noise={"babble": 1}, snr_db=(0, 0))
    speakers = {item.id: item.speaker for item in corpus}
    for example, facts in _examples(Mixer(recipe, corpus)):
        assert 4 <= len(facts["noise_id"]) <= 8
        assert example.utterance.speaker not in {speakers[name] for name in facts["noise_id"]}


def test_recordings_are_cut_where_they_sound_and_repeated():
    rng = np.random.default_rng(0)
    wave = np.pad(rng.uniform(-1, 1, 500), (5000, 3000)).astype(np.float32)
    for _ in range(20):
        piece = cut_noise(wave, 12000, RATE, rng)
        assert len(piece) == 12000
        assert np.abs(piece[:320]).max() > 0
        np.testing.assert_array_equal(piece[:3500], piece[8500:])


def test_colours():
    rng = np.random.default_rng(0)
    slopes = {}
    for _ in range(20):
        wave, colour = colored_noise(RATE, RATE, rng)
        power = np.abs(np.fft.rfft(wave)) ** 2
        slopes[colour] = 10 * np.log10(power[4000:8000].mean() / power[400:800].mean())
    assert slopes == pytest.approx({"white": 0, "pink": -10, "brown": -20}, abs=0.5)


# Rooms


def test_the_direct_sound_in_a_room_is_the_speech_itself():
    pytest.importorskip("pyroomacoustics")
    rng = np.random.default_rng(0)
    click = np.zeros(RATE, np.float32)
    click[2000] = 1
    for rt60_s in (0.2, 0.5, 0.8):
        heard, distance = reverberate(click, RATE, rt60_s, rng)
        assert heard.shape == click.shape
        assert 0.4 < distance < 2.6
        assert np.abs(heard[:2000]).max() < 1e-6
        assert heard[2000] == pytest.approx(1, abs=1e-5)
        assert np.abs(heard).argmax() == 2000
        left = np.cumsum(heard[::-1].astype(np.float64) ** 2)[::-1]  # energy still to come
        decay = np.flatnonzero(left < left[2001] * 10**-3)[0] / RATE - 2000 / RATE
        assert 0.3 * rt60_s < decay < rt60_s  # 30 dB
    speech = _speech(rng, 1.0).astype(np.float32)
    a, b = (reverberate(speech, RATE, 0.4, np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_noise_in_rooms_is_measured_against_the_speech_in_the_room(corpus):
    pytest.importorskip("pyroomacoustics")
    room = MixConfig("noisy", room_probability=1.0, rt60_s=(0.2, 0.3))
    noisy = dataclasses.replace(room, noise={"coloured": 1.0}, snr_db=(3, 3))
    for (dry, _), (wet, facts) in zip(_examples(Mixer(room, corpus)), _examples(Mixer(noisy, corpus)), strict=True):
        assert 0.2 <= facts["rt60_s"] <= 0.3
        speech = amplify(dry.input_audio, facts["gain_db"])  # the room is drawn before the noise
        assert active_level_db(speech, RATE) - level_db(wet.input_audio - speech) == pytest.approx(3, abs=0.1)


def test_the_extra_for_rooms_is_named(corpus, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[rooms\]'"):
        Mixer(MixConfig("noisy", room_probability=0.1, rt60_s=(0.2, 0.3)), corpus)


# Mixtures


def test_mixtures_are_the_sum_of_their_talkers_first_to_speak_first(corpus):
    recipe = dataclasses.replace(CONFIGS["mixture"], copies=4, noise={}, snr_db=None)
    known = {item.id: item for item in corpus}
    counts = set()
    for example, facts in _examples(Mixer(recipe, corpus)):
        tracks = [example.target, *example.others]
        counts.add(len(tracks))
        assert {len(s) for s in example.signals} == {len(example.target)}
        np.testing.assert_allclose(example.input_audio, np.sum(tracks, axis=0), atol=1e-6)
        onsets = [onset_s(track, RATE) for track in tracks]
        assert onsets == sorted(onsets) == pytest.approx(facts["onsets_s"])
        items = [known[name] for name in facts["utterances"]]
        assert example.columns["speakers"] == [item.speaker for item in items]
        assert example.columns["texts"] == [item.text for item in items]
        assert len(set(example.columns["speakers"])) == len(tracks)
        assert (example.utterance.text, example.utterance.speaker) == (items[0].text, items[0].speaker)
        for track, item, offset, gain_db in zip(tracks, items, facts["offsets_s"], facts["gains_db"], strict=True):
            assert 0 <= offset <= 0.5
            wave, start = item.read(RATE)[0], round(offset * RATE)
            expected = np.pad(amplify(wave, gain_db + facts["gain_db"]), (start, len(track) - start - len(wave)))
            np.testing.assert_allclose(track, expected, atol=1e-4)
        own = facts["utterances"].index(example.columns["utterance"])
        assert facts["offsets_s"][own] == 0
        levels = np.array([active_level_db(track, RATE) for track in tracks])
        assert (np.abs(levels - levels[own]) <= 5.1).all()
    assert counts == {2, 3}


def test_who_speaks_first_is_heard_not_read_off_the_offsets(corpus, tmp_path):
    late = np.concatenate([np.zeros(RATE), corpus[0].read(RATE)[0]])
    soundfile.write(tmp_path / "late.wav", late, RATE)
    items = [dataclasses.replace(corpus[0], audio=tmp_path / "late.wav"), *corpus[1:]]
    mixer = Mixer(dataclasses.replace(CONFIGS["mixture"], noise={}, snr_db=None), items)
    example = mixer.example(mixer.rows[0], RATE)
    assert json.loads(example.columns["mix"])["utterances"][-1] == example.columns["utterance"] == "u0"
    assert example.utterance.id == "u0-0"
    assert example.utterance.text == example.columns["texts"][0] != "number 0"


# Disguise


@pytest.mark.parametrize(("pitch", "formants"), [(0.7, 1.2), (1.5, 1.0), (1.2, 0.85)])
def test_a_disguise_moves_pitch_and_formants(pitch, formants):
    rng, size = np.random.default_rng(0), 2 * RATE
    pulses = np.zeros(size)
    pulses[:: RATE // 125] = 1
    resonance = 0.97 ** np.arange(800) * np.cos(2 * np.pi * 1500 / RATE * np.arange(800))
    wave = (0.1 * np.convolve(pulses, resonance)[:size]).astype(np.float32)
    heard = disguise_voice(wave, RATE, pitch, formants, rng)
    assert heard.shape == wave.shape
    spectrum = np.abs(np.fft.rfft(heard[4000:-4000] * np.hanning(size - 8000)))
    hz = np.arange(len(spectrum)) * RATE / (size - 8000)
    cepstrum = np.fft.irfft(np.log(spectrum + 1e-6))
    period = 40 + int(np.argmax(cepstrum[40:220]))
    assert RATE / period == pytest.approx(125 * pitch, rel=0.03)
    loudest = hz[200 + np.argmax(spectrum[200:])]  # the harmonic next to the formant
    assert abs(loudest - 1500 * formants) < 125 * pitch


def test_a_disguise_keeps_sounds_at_their_time():
    rng = np.random.default_rng(0)
    wave = np.zeros(RATE, np.float32)
    wave[6000:9000] = _speech(rng, 1.0)[6000:9000] + 0.1 * np.sin(np.arange(3000) * 0.1)
    for pitch in (0.7, 1.4):
        loud = np.flatnonzero(np.abs(disguise_voice(wave, RATE, pitch, 1.1, rng)) > 0.01)
        assert abs(loud[0] - 6000) < 500
        assert abs(loud[-1] - 9000) < 500


@pytest.mark.parametrize("length", [1, 100, 700, 20000])
def test_any_length_can_be_stretched_and_disguised(length):
    wave = np.sin(np.arange(16000) * 0.05).astype(np.float32)
    assert time_stretch(wave, length, RATE).shape == (length,)
    assert np.isfinite(disguise_voice(np.resize(wave, length), RATE, 1.3, 0.9, np.random.default_rng(0))).all()
    middle = time_stretch(wave, 24000, RATE)[2000:-2000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) * 16000 / len(middle) == pytest.approx(0.05 * RATE / 2 / np.pi, abs=3)


# Stores


def test_rows_of_a_store(corpus, noise, codec, stores):
    for kind, recipe in CONFIGS.items():
        store = TokenStore(stores / kind)
        assert [row["id"] for row in store] == [f"u{i}-{copy}" for i in range(9) for copy in range(recipe.copies)]
        mixer = _mixer(kind, corpus, noise)
        for row, item in zip(store, mixer.rows, strict=True):
            example, heard = mixer.example(item, RATE), recipe.input_name
            assert row["num_samples"] == len(example.target)
            assert row["codes"].dtype == row[f"{heard}_codes"].dtype == np.int64
            assert len(row[f"{heard}_codes"]) == len(row["codes"])
            np.testing.assert_array_equal(row["codes"], codec(example.target, RATE)["input_ids"][0])
            np.testing.assert_array_equal(row[f"{heard}_codes"], codec(example.input_audio, RATE)["input_ids"][0])
            features = codec.codec.extract_features(torch.from_numpy(example.input_audio)[None])[0]
            assert row[f"{heard}_features"].dtype == np.float16
            np.testing.assert_array_equal(row[f"{heard}_features"], features.half().numpy())
            assert {name: row[name] for name in example.columns} == example.columns
            assert row["page"] == example.utterance.extra["page"]
            if kind == "mixture":
                assert {len(codes) for codes in row["sources"]} == {len(row["codes"])}
                for codes, track in zip(row["sources"], [example.target, *example.others], strict=True):
                    np.testing.assert_array_equal(codes, codec(track, RATE)["input_ids"][0])


def test_a_mixed_store_opens_as_a_dataset(stores, tmp_path):
    for kind, recipe in CONFIGS.items():
        files = str(stores / kind / "*.parquet")
        plain = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
        ours = TokenStore(stores / kind)
        assert plain.column_names == ours.dataset().column_names
        features = np.asarray(plain.with_format("numpy")[3][f"{recipe.input_name}_features"])
        np.testing.assert_array_equal(features.astype(np.float16), ours[3][f"{recipe.input_name}_features"])


def test_the_manifest_tells_how_it_was_made(corpus, noise, codec, stores, tmp_path):
    manifest = TokenStore(stores / "noisy").manifest
    assert manifest["mix"]["snr_db"] == [-5, 20]
    assert manifest["mix"]["kind"] == "noisy"
    assert manifest["features"] == {"column": "noisy_features", "dim": 80}
    counts = np.bincount(np.concatenate([row["codes"] for row in TokenStore(stores / "noisy")]))
    assert manifest["codes_used"] == np.count_nonzero(counts)
    assert "18 noisy examples" in describe(manifest)
    assert sorted(path.suffixes[0] for path in (stores / "noisy/listen").iterdir()) == [
        ".decoded",
        ".input",
        ".original",
    ]
    other = Mixer(dataclasses.replace(CONFIGS["noisy"], snr_db=(0, 1)), corpus, noise)
    with pytest.raises(ValueError, match=r"another recipe.*mix.snr_db: \[-5, 20\] there, \[0, 1\] now"):
        _tokenize(other, stores / "noisy", codec)
    with pytest.raises(ValueError, match=r"features.column: noisy_features there, None now"):
        _tokenize(_mixer("noisy", corpus, noise), stores / "noisy", codec, features=False)
    with pytest.raises(ValueError, match=r"mix.noise_sha256"):
        _tokenize(Mixer(CONFIGS["noisy"], corpus, noise[:1]), stores / "noisy", codec)
    with pytest.raises(ValueError, match=r"mix.kind: noisy there, None now"):
        _tokenize(corpus, stores / "noisy", codec)


def test_all_copies_of_an_utterance_are_on_one_side_of_a_split(stores):
    train, test = TokenStore(stores / "noisy").split(0.3, seed=1)
    assert not set(train["utterance"]) & set(test["utterance"])
    assert len(test) % 2 == 0
    assert len(train) + len(test) == 18


def test_features_are_read_from_disk_when_they_are_needed(corpus, codec, tmp_path):
    store = tmp_path / "store"
    tokenize_corpus(corpus, store, codec, features=True, listen=1, progress=False)
    assert TokenStore(store).dataset(["id", "codes"]).cache_files == []
    assert not (store / "arrow").exists()
    dataset = TokenStore(store).dataset(["id", "features"])
    assert [Path(file["filename"]).is_relative_to(store / "arrow") for file in dataset.cache_files] == [True]


def test_features_of_unmixed_speech(corpus, codec, tmp_path):
    tokenize_corpus(corpus, tmp_path / "store", codec, features=True, listen=0, progress=False)
    row = TokenStore(tmp_path / "store")[0]
    assert row["features"].shape == (len(row["codes"]), 80)
    with pytest.raises(ValueError, match="features are the output of FocalCodec's encoder, and this codec is a Simple"):
        Encoder(SimpleNamespace(codec=SimpleNamespace(feature_dim=None)), features=True)


def test_what_cannot_be_mixed_is_skipped_and_listed(corpus, codec, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), RATE)
    items = [dataclasses.replace(corpus[0], id="silent", audio=tmp_path / "silent.wav"), *corpus[:3]]
    recipe = MixConfig("noisy", noise={"coloured": 1}, snr_db=(0, 5))
    manifest = _tokenize(Mixer(recipe, items), tmp_path / "store", codec)
    assert (manifest["num_utterances"], manifest["num_skipped"]) == (3, 1)
    skipped = (tmp_path / "store/skipped.tsv").read_text().splitlines()[1].split("\t")
    assert skipped[0] == "silent-0"
    assert skipped[2].endswith("silent.wav: it is silent: all samples are zero")


# Recipes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "loud"}, "kind: expected one of 'noisy', 'mixture', 'disguised', found 'loud'"),
        ({}, r"missing keys \['kind'\]"),
        ({"kind": "noisy", "snr": [0, 1]}, r"unknown keys \['snr'\]; known keys: kind, seed"),
        ({"kind": "noisy"}, "kind noisy needs noise or room_probability"),
        ({"kind": "noisy", "noise": {"coloured": 1}}, "noise and snr_db need each other"),
        ({"kind": "noisy", "snr_db": [0, 5], "room_probability": 1, "rt60_s": [0.2, 0.3]}, "noise and snr_db need"),
        ({"kind": "noisy", "room_probability": 0.5}, "room_probability above 0 and rt60_s need each other"),
        ({"kind": "noisy", "room_probability": 0.5, "rt60_s": [0.2, 5]}, "rt60_s must be .* within 0.1 ... 1.0"),
        ({"kind": "noisy", "noise": {"rain": 1}, "snr_db": [0, 1]}, r"noise must map recorded, .* found \['rain'\]"),
        ({"kind": "noisy", "noise": {"coloured": 2}, "snr_db": [0, 1]}, "coloured must be a probability"),
        ({"kind": "noisy", "noise": {"coloured": 0.6, "babble": 0.6}, "snr_db": [0, 1]}, "must sum to at most 1"),
        ({"kind": "noisy", "noise": ["babble"], "snr_db": [0, 1]}, r"noise: expected a mapping, found \['babble'\]"),
        ({"kind": "noisy", "noise": {"coloured": 1}, "snr_db": [5, 0]}, r"snr_db must be \[low, high\]"),
        ({"kind": "noisy", "noise": {"coloured": 1}, "snr_db": 5}, "snr_db: expected a list of 2 .*found 5"),
        ({"kind": "noisy", "noise": {"coloured": 1}, "snr_db": [0, 1], "copies": 0}, "copies must be at least 1"),
        ({"kind": "noisy", "pitch": [1, 2]}, "pitch needs kind disguised, found kind noisy"),
        ({"kind": "disguised", "pitch": [1, 2]}, "kind disguised needs formants"),
        ({"kind": "mixture", "talkers": [2, 2.5]}, r"talkers: expected .* found \[2, 2.5\]"),
        ({"kind": "mixture", "talkers": [1, 2]}, "talkers must be"),
        ({"kind": "mixture", "talkers": [2, 2], "offset_s": [0, 1]}, "kind mixture needs level_difference_db"),
        ({"kind": "mixture", "room_probability": 0.1}, "room_probability needs kind noisy, found kind mixture"),
    ],
)
def test_contradictions(values, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        load_config(MixConfig, tmp_path / "recipe.yaml")


def test_what_the_corpora_lack_is_said(corpus, noise):
    with pytest.raises(ValueError, match="none was given: name a folder with --noise"):
        Mixer(CONFIGS["noisy"], corpus)
    with pytest.raises(ValueError, match=r"given with --noise, but noise\.recorded of the recipe is 0"):
        Mixer(CONFIGS["disguised"], corpus, noise)
    with pytest.raises(ValueError, match=r"mixes 3 talkers, and the corpus has 2"):
        Mixer(CONFIGS["mixture"], [item for item in corpus if item.speaker != "s1"], noise)
    with pytest.raises(ValueError, match=r"mixes 1 talkers and another speaker for babble, and the corpus has 1"):
        Mixer(CONFIGS["noisy"], [item for item in corpus if item.speaker == "s1"], noise)
    unnamed = [dataclasses.replace(item, speaker=None) for item in corpus]
    with pytest.raises(ValueError, match="9 utterances name none, first u0: add a column speaker"):
        Mixer(CONFIGS["mixture"], unnamed, noise)
    example, _ = _examples(Mixer(CONFIGS["noisy"], unnamed, noise))[0]  # for babble anybody else will do
    assert example.utterance.speaker is None


def test_command(folder, noise_folder, tmp_path, monkeypatch, capsys):
    from focallm.tasks.cli.commands import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("kind: noisy\nnoise: {recorded: 1}\nsnr_db: [0, 5]\n")
    words = ["focallm", "tokenize", str(folder), str(tmp_path / "store"), "--mix", str(recipe), "--quiet"]
    monkeypatch.setattr(sys, "argv", [*words, "--codec", "nowhere"])
    with pytest.raises(
        SystemExit, match="none was given: name a folder with --noise"
    ):  # before the codec is looked for
        main()
    monkeypatch.setattr(sys, "argv", [*words, "--noise", str(noise_folder), "--features"])
    main()
    assert "9 noisy examples" in capsys.readouterr().out
    assert TokenStore(tmp_path / "store")[0]["noisy_features"].shape[1] == 80
    monkeypatch.setattr(sys, "argv", [*words[:4], "--noise", str(noise_folder)])
    with pytest.raises(SystemExit, match="--noise needs --mix"):
        main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    given, recordings, target = sys.argv[1:]
    make_row = Encoder._make_row

    def _slowly(encoder, example, codes):
        time.sleep(0.2)
        return make_row(encoder, example, codes)

    Encoder._make_row = _slowly
    slow_mixer = Mixer(CONFIGS["noisy"], read_corpus(given), read_corpus(recordings))
    _tokenize(slow_mixer, Path(target), AudioTokenizer.from_pretrained("mini"))
