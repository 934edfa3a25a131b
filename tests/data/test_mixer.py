"""Mixed speech: the parameters can be measured, and depend only on the config, the utterance and the copy.

Run as a program (`python test_mixer.py CORPUS NOISE STORE`) this file is the process that gets killed.
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
from datasets import load_dataset

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer
from focallm.data.mixing.split import connect, split_corpus
from focallm.data.token_store import TokenStore, describe
from focallm.data.tokenization import Encoder, tokenize_corpus
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.noise import active_level_db, amplify, level_db, onset_s

RATE = 16000
COLORS = {"white", "pink", "brown"}
NOISES = {"recorded": 0.4, "colored": 0.2, "modulated": 0.2, "babble": 0.2}
CONFIGS = {
    "noisy": MixConfig("noisy", copies=2, level_db=(-30, -20), noise=NOISES, snr_db=(-5, 20)),
    "mixture": MixConfig(
        "mixture",
        num_speakers=(2, 3),
        offset_s=(0, 0.5),
        level_difference_db=(-5, 5),
        noise={"recorded": 0.5},
        snr_db=(0, 9),
    ),
    "pitch_shifted": MixConfig("pitch_shifted", pitch=(0.7, 1.5), formants=(0.8, 1.2)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_speech):
    """Nine utterances of three speakers, one of them at another rate."""
    root, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    rows = []
    for i in range(9):
        rate = 22050 if i == 4 else RATE
        soundfile.write(root / f"{i}.wav", make_speech(rng, rng.uniform(0.5, 1.1), rate), rate)
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


def test_loud_mixtures_are_scaled_as_a_whole(corpus):
    recipe = MixConfig("noisy", level_db=(-3, -3), noise={"colored": 1}, snr_db=(-5, -5))
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


# Rooms


def test_noise_in_rooms_is_measured_against_the_speech_in_the_room(corpus):
    pytest.importorskip("pyroomacoustics")
    room = MixConfig("noisy", room_probability=1.0, rt60_s=(0.2, 0.3))
    noisy = dataclasses.replace(room, noise={"colored": 1.0}, snr_db=(3, 3))
    for (dry, _), (wet, facts) in zip(_examples(Mixer(room, corpus)), _examples(Mixer(noisy, corpus)), strict=True):
        assert 0.2 <= facts["rt60_s"] <= 0.3
        speech = amplify(dry.input_audio, facts["gain_db"])  # the room is drawn before the noise
        assert active_level_db(speech, RATE) - level_db(wet.input_audio - speech) == pytest.approx(3, abs=0.1)


def test_the_extra_for_rooms_is_named(corpus, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[rooms\]'"):
        Mixer(MixConfig("noisy", room_probability=0.1, rt60_s=(0.2, 0.3)), corpus)


# Mixtures


def test_mixtures_are_the_sum_of_their_speakers_in_the_order_in_which_they_start(corpus):
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
        first = facts["utterances"].index(example.columns["utterance"])
        assert facts["offsets_s"][first] == 0
        levels = np.array([active_level_db(track, RATE) for track in tracks])
        assert (np.abs(levels - levels[first]) <= 5.1).all()
    assert counts == {2, 3}


def test_speakers_are_sorted_by_their_first_sound_not_by_their_offset(corpus, tmp_path):
    late = np.concatenate([np.zeros(RATE), corpus[0].read(RATE)[0]])
    soundfile.write(tmp_path / "late.wav", late, RATE)
    items = [dataclasses.replace(corpus[0], audio=tmp_path / "late.wav"), *corpus[1:]]
    mixer = Mixer(dataclasses.replace(CONFIGS["mixture"], noise={}, snr_db=None), items)
    example = mixer.example(mixer.rows[0], RATE)
    assert json.loads(example.columns["mix"])["utterances"][-1] == example.columns["utterance"] == "u0"
    assert example.utterance.id == "u0-0"
    assert example.utterance.text == example.columns["texts"][0] != "number 0"


# Stores


def test_rows_of_a_store(corpus, noise, codec, stores):
    for kind, recipe in CONFIGS.items():
        store = TokenStore(stores / kind)
        assert [row["id"] for row in store] == [f"u{i}-{copy}" for i in range(9) for copy in range(recipe.copies)]
        mixer = _mixer(kind, corpus, noise)
        for row, item in zip(store, mixer.rows, strict=True):
            example, name = mixer.example(item, RATE), recipe.input_name
            assert row["num_samples"] == len(example.target)
            assert row["codes"].dtype == row[f"{name}_codes"].dtype == np.int64
            assert len(row[f"{name}_codes"]) == len(row["codes"])
            np.testing.assert_array_equal(row["codes"], codec(example.target, RATE)["input_ids"][0])
            np.testing.assert_array_equal(row[f"{name}_codes"], codec(example.input_audio, RATE)["input_ids"][0])
            features = codec.codec.extract_features(torch.from_numpy(example.input_audio)[None])[0]
            assert row[f"{name}_features"].dtype == np.float16
            np.testing.assert_array_equal(row[f"{name}_features"], features.half().numpy())
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


def test_the_manifest_records_how_the_store_was_made(corpus, noise, codec, stores, tmp_path):
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


def test_all_copies_of_an_utterance_are_in_one_split(stores):
    train, test = TokenStore(stores / "noisy").split(0.3, seed=1)
    assert not set(train["utterance"]) & set(test["utterance"])
    assert len(test) % 2 == 0
    assert len(train) + len(test) == 18


@pytest.mark.parametrize("kind", ["noisy", "mixture"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_recording_that_is_held_out_is_trained_on(kind, seed, stores):
    """Neither as a target, nor as another speaker, nor in babble, nor as noise."""

    def recordings(rows):
        used = set(rows["utterance"])
        for mix in map(json.loads, rows["mix"]):
            used.update(mix.get("utterances", ()))
            noise = mix.get("noise_id")
            used.update(noise if isinstance(noise, list) else [noise])
        return used - {None} - COLORS

    train, test = TokenStore(stores / kind).split(0.3, seed)
    assert len(train)
    assert len(test)
    assert not recordings(train) & recordings(test)
    assert TokenStore(stores / kind).split(0.0)[0].num_rows == len(train) + len(test)


def test_both_parts_have_the_speakers_that_they_need(corpus):
    for held_out in (0.01, 0.3, 0.9):
        config = dataclasses.replace(CONFIGS["mixture"], noise={}, snr_db=None, held_out=held_out)
        parts = split_corpus(config, corpus, ())
        assert sorted(len(part.corpus) for part in parts) == [3, 6]
        assert [len({item.speaker for item in part.corpus}) for part in parts] == [3, 3]
    assert split_corpus(config, corpus[:5], ())[1].corpus == ()  # six are needed
    assert split_corpus(config.for_evaluation(), corpus, ())[0].corpus == corpus
    assert split_corpus(CONFIGS["pitch_shifted"], corpus, ())[1].corpus == ()  # nothing is shared
    assert split_corpus(CONFIGS["noisy"], corpus, corpus[:1])[1].noise == range(1)


def test_a_corpus_that_is_too_small_to_hold_out_speech_is_reported(corpus, codec, tmp_path, caplog):
    config = dataclasses.replace(CONFIGS["mixture"], noise={}, snr_db=None, num_speakers=(2, 2))
    _tokenize(Mixer(config, corpus[:3]), tmp_path / "store", codec, features=False)
    train, test = TokenStore(tmp_path / "store").split(0.3)
    assert len(train) + len(test) == 3
    assert len(test)
    assert "are also trained on, so the evaluation loss is not that of unheard speech" in caplog.text


def test_mixtures_that_share_a_recording_are_connected():
    first = connect([["b", "c"], ["x"], ["d", "e"], ["e", "c"], ["a", "x"]])
    assert first == {**dict.fromkeys("bcde", "b"), **dict.fromkeys("xa", "a")}


def test_a_damaged_copy_of_the_features_is_made_again(corpus, codec, tmp_path, caplog):
    tokenize_corpus(corpus, tmp_path, codec, features=True, listen=0, progress=False)
    expected = [row["features"].copy() for row in TokenStore(tmp_path)]  # not a view of the mapped file
    (copy,) = (tmp_path / "arrow").rglob("*.arrow")
    whole = copy.read_bytes()
    for damaged in (whole[:-5000], whole[:9000] + bytes(2000) + whole[11000:], whole[:10] + bytes(50) + whole[60:]):
        copy.write_bytes(damaged)
        caplog.clear()
        for row, features in zip(TokenStore(tmp_path), expected, strict=True):
            np.testing.assert_array_equal(row["features"], features)
        assert "arrow is damaged and is made again from the shards" in caplog.text


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
    recipe = MixConfig("noisy", noise={"colored": 1}, snr_db=(0, 5))
    manifest = _tokenize(Mixer(recipe, items), tmp_path / "store", codec)
    assert (manifest["num_utterances"], manifest["num_skipped"]) == (3, 1)
    skipped = (tmp_path / "store/skipped.tsv").read_text().splitlines()[1].split("\t")
    assert skipped[0] == "silent-0"
    assert skipped[2].endswith("silent.wav: it is silent: all samples are zero")


def test_missing_noise_speakers_and_names_are_errors(corpus, noise):
    with pytest.raises(ValueError, match="but there is none: name a folder with --noise"):
        Mixer(CONFIGS["noisy"], corpus)
    with pytest.raises(ValueError, match=r"given with --noise, but noise\.recorded of the recipe is 0"):
        Mixer(CONFIGS["pitch_shifted"], corpus, noise)
    with pytest.raises(ValueError, match=r"mixes 3 speakers, and the corpus has 2"):
        Mixer(CONFIGS["mixture"], [item for item in corpus if item.speaker != "s1"], noise)
    with pytest.raises(ValueError, match=r"mixes 1 speakers and another speaker for babble, and the corpus has 1"):
        Mixer(CONFIGS["noisy"], [item for item in corpus if item.speaker == "s1"], noise)
    unnamed = [dataclasses.replace(item, speaker=None) for item in corpus]
    with pytest.raises(ValueError, match="9 utterances name none, first u0: add a column speaker"):
        Mixer(CONFIGS["mixture"], unnamed, noise)
    example, _ = _examples(Mixer(CONFIGS["noisy"], unnamed, noise))[0]  # babble needs no names
    assert example.utterance.speaker is None


def test_command(folder, noise_folder, tmp_path, monkeypatch, capsys):
    from focallm.tasks.cli.commands import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("kind: noisy\nnoise: {recorded: 1}\nsnr_db: [0, 5]\n")
    words = ["focallm", "tokenize", str(folder), str(tmp_path / "store"), "--mix", str(recipe), "--quiet"]
    monkeypatch.setattr(sys, "argv", [*words, "--codec", "nowhere"])
    # The recipe is checked before the codec is looked for.
    with pytest.raises(SystemExit, match="but there is none: name a folder with --noise"):
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
    corpus_folder, recordings, target = sys.argv[1:]
    make_row = Encoder._make_row

    def _slowly(encoder, example, codes):
        time.sleep(0.2)
        return make_row(encoder, example, codes)

    Encoder._make_row = _slowly
    slow_mixer = Mixer(CONFIGS["noisy"], read_corpus(corpus_folder), read_corpus(recordings))
    _tokenize(slow_mixer, Path(target), AudioTokenizer.from_pretrained("mini"))
