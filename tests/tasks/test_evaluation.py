import json

import numpy as np
import pytest

from focallm.data.corpora import read_corpus
from focallm.data.mixing import Mixer, MixRecipe
from focallm.tasks import evaluation
from focallm.tasks.metrics import word_counter
from focallm.tokenizer import AudioTokenizer, write_audio


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(5):
        write_audio(tmp_path / f"{i}.wav", (0.1 * rng.standard_normal(8000)).astype(np.float32), 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": "the cat sat down"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_codec_rows_hear_the_recording_and_what_the_codec_leaves(corpus, codec):
    heard = []

    def recognise(audio, rate):
        heard.append((len(audio), rate))
        return "The cat sat down!" if len(heard) % 2 else "the cat set"

    recording, decoded = evaluation.codec_rows(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), recognise)
    assert heard == [(8000, 16000)] * 10
    assert recording.errors == [0] * 5
    assert decoded.errors == [2] * 5
    assert decoded.words == [4] * 5
    assert "| 50.0 (50.0 to 50.0) |" in decoded.cells(seed=0)


def test_without_a_recogniser_only_the_distance_is_measured(corpus, codec):
    rows = evaluation.codec_rows(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), None)
    assert rows[1].cells(0).startswith("| through the codec | - | - | mel distance ")


@pytest.mark.parametrize("task", ["se", "ss"])
def test_mixed_rows_stand_between_doing_nothing_and_the_best_the_codec_can(task, tmp_path, speech_lm):
    rows = [{"id": str(i), "audio": f"{i}.wav", "text": "the cat", "speaker": "ab"[i % 2]} for i in range(4)]
    for i, row in enumerate(rows):
        tone = 0.1 * np.sin(2 * np.pi * (200 + 100 * i) * np.arange(8000 + 400 * i) / 16000)
        write_audio(tmp_path / row["audio"], tone.astype(np.float32), 16000)
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "se": MixRecipe("noisy", noise={"coloured": 1.0}, snr_db=(0.0, 0.0)),
        "ss": MixRecipe("mixture", talkers=(2, 2), offset_s=(0.1, 0.1), level_difference_db=(0.0, 0.0)),
    }[task]
    corpus = read_corpus(tmp_path)
    mixer, heard = Mixer(recipe, corpus), []

    def recognise(audio, rate):
        heard.append(len(audio))
        return "the cat"

    found = evaluation.mixed_rows(task, mixer, mixer.rows, speech_lm(task), recognise)
    talkers = 2 if task == "ss" else 1
    assert [len(row.words) for row in found] == [4 * talkers] * 5  # every talker of every mixture counts
    assert len(heard) == 5 * 4 * talkers
    distances = [float(row.note.rsplit(" ", 1)[1]) for row in found]
    assert distances[0] == 0
    assert min(distances[1:]) > 0.1
    names = {"se": ("noisy", "enhanced"), "ss": ("mixture", "separated")}[task]
    assert [row.name for row in found[2:]] == [names[0], f"{names[0]} through the codec", names[1]]
    other = {"se": "ss", "ss": "se"}[task]
    with pytest.raises(ValueError, match=f"{other} needs a recipe of kind"):
        evaluation.mixed_rows(other, mixer, mixer.rows, speech_lm(task), None)


def test_a_recipe_belongs_to_enhancement_and_separation(corpus, tmp_path):
    for task, mix in (("se", None), ("codec", tmp_path / "mix.yaml")):
        with pytest.raises(ValueError, match="se and ss, and only they, need --mix"):
            evaluation.evaluate_task(task, corpus, "mini", 0, "mel", 0, mix)
    with pytest.raises(ValueError, match="codec, tts, se and ss can be evaluated, found 'vc'"):
        evaluation.evaluate_task("vc", corpus, "mini", 0, "mel", 0)


def test_the_interval_holds_the_rate_and_narrows_with_items():
    errors, words = [0, 1, 2, 3] * 5, [5] * 20
    low, high = evaluation.bootstrap(errors, words, seed=0)
    assert low < 0.3 < high
    many = evaluation.bootstrap(errors * 16, words * 16, seed=0)
    assert many[1] - many[0] < 0.5 * (high - low)
    assert evaluation.bootstrap(errors, words, seed=0) == (low, high)


def test_the_share_of_failures_counts_items_above_half():
    row = evaluation.Row("x", [0, 1, 3, 4], [4, 4, 4, 4])
    assert "| 50 |" in row.cells(0)


def test_a_corpus_without_transcripts_is_refused(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    with pytest.raises(ValueError, match="has no transcripts"):
        evaluation.evaluate_task("codec", tmp_path, "mini", 0, "mel", 0)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[eval\]'"):
        evaluation.load_recogniser("anywhere")


def test_wrong_words_need_the_extra_and_the_error_says_so(monkeypatch):
    count = word_counter()
    assert count("The cat sat down.", "the cat set") == (2, 4)
    assert count("", "") == (1, 1)
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[eval\]'"):
        word_counter()
