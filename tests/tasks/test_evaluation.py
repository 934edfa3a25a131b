import json
from pathlib import Path

import numpy as np
import pytest

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer
from focallm.tasks.evaluation import evaluate as evaluation
from focallm.tasks.evaluation import results
from focallm.tasks.evaluation import systems as eval_systems
from focallm.tasks.evaluation.evaluate import evaluate_systems
from focallm.tasks.evaluation.metrics import Metric, load_asr, load_scorers, word_counter
from focallm.tasks.evaluation.results import bootstrap, table, word_cells
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


class Words(Metric):
    """Hears the right words, then one wrong of four, in turn."""

    name = "words"

    def __init__(self, checkpoint="first"):
        self.judge, self.heard = checkpoint, []

    @property
    def checkpoint(self):
        return self.judge

    def measure(self, sounds):
        self.heard += [(len(sound.audio), sound.rate) for sound in sounds]
        return [{"transcript": "the cat", "errors": i % 2, "words": 4} for i in range(len(sounds))]


class Voice(Metric):
    """Gives every voice the same marks."""

    name, checkpoint = "voice", "alike"

    def measure(self, sounds):
        return [dict.fromkeys(sound.voices, 0.5) for sound in sounds]


def judged(systems, count, metrics, record=None, **more):
    return evaluate_systems(systems, [str(i) for i in range(count)], metrics, record=record, **more)


def test_a_codec_is_heard_beside_the_recordings(corpus, codec):
    words, items, tokenizer = Words(), read_corpus(corpus), AudioTokenizer(codec("tiny_50hz"))
    lines = judged(eval_systems.codec_systems(items, tokenizer, "tiny"), 5, [words])
    assert words.heard == [(8000, 16000)] * 10
    assert [line["errors"] for line in lines["recording"]] == [0, 1, 0, 1, 0]
    assert [line["words"] for line in lines["tiny"]] == [4] * 5
    shown = table(lines, seed=0)
    assert "n = 5, 0.0 minutes; seed 0" in shown
    assert "| recording | 10.0 (" in shown
    assert "Judges: words: first." in shown
    assert f"of {tokenizer.vocab_size} (" in "".join(results.remarks(lines))


def test_without_a_recogniser_only_distances_are_measured(corpus, codec):
    systems = eval_systems.codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    lines = judged(systems, 5, load_scorers("mel"))
    assert "| tiny | - | - |" in table(lines, 0)
    assert min(line["mel"] for line in lines["tiny"]) > 0.1


def test_what_a_record_holds_is_not_judged_again(corpus, codec, tmp_path):
    words, record = Words(), tmp_path / "record.jsonl"
    systems = eval_systems.codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    first = judged(systems, 3, [words], record)
    with record.open("a") as file:
        file.write('[{"id": "4", "system": "tiny", "ke')  # killed while writing
    assert judged(systems, 3, [words], record) == first
    assert len(words.heard) == 6
    line = first["tiny"][0]
    assert (line["seed"], line["metrics"]) == (0, {"words": "first"})
    assert {"commit", "config", "fingerprint"} <= set(line)


def test_a_record_takes_up_further_metrics_but_no_line_of_another_judge_or_seed(corpus, codec, tmp_path):
    words, voice, record = Words(), Voice(), tmp_path / "record.jsonl"
    systems = eval_systems.codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    first = judged(systems, 2, [words], record)["tiny"][0]
    more = judged(systems, 2, [words, voice], record)["tiny"][0]
    assert len(words.heard) == 4
    assert more["similarity"] == 0.5
    others = {"config": "", "metrics": {}, "rtf": 1.0}  # the sound is made anew, which takes another time
    assert {**more, **others} == {**first, **others, "similarity": 0.5}
    assert more["config"] != first["config"]
    others = Words("second")
    again = judged(systems, 2, [others], record)["tiny"][0]
    assert len(others.heard) == 4
    assert again["metrics"] == {"words": "second"}
    assert "similarity" not in again
    judged(systems, 2, [others], record, seed=1)
    assert len(others.heard) == 8


def test_a_slow_metric_judges_the_first_items_only(corpus, codec):
    systems = eval_systems.codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    voice = Voice()
    voice.limit = 2
    lines = judged(systems, 5, [voice])["tiny"]
    assert ["similarity" in line for line in lines] == [True, True, False, False, False]


def test_a_record_without_judges_is_read_but_judged_anew(corpus, codec, tmp_path):
    record, old = tmp_path / "old.jsonl", {"seconds": 1.0, "text": "a", "errors": 9, "words": 9, "quality": 3.0}
    record.write_text(json.dumps([{"id": "0", "system": "recording", "fingerprint": "", **old}]) + "\n")
    assert "| recording | 100.0 (100.0 to 100.0) | 100 | 3.00 |" in results.table_of_record(record, [], 0)
    systems = eval_systems.codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    assert judged(systems, 1, [Words()], record)["recording"][0]["errors"] == 0


@pytest.mark.parametrize("task", ["se", "ss"])
def test_mixed_systems_stand_between_doing_nothing_and_the_best_the_codec_can(task, tmp_path, speech_lm):
    rows = [{"id": str(i), "audio": f"{i}.wav", "text": "the cat", "speaker": "ab"[i % 2]} for i in range(4)]
    for i, row in enumerate(rows):
        tone = 0.1 * np.sin(2 * np.pi * (200 + 100 * i) * np.arange(8000 + 400 * i) / 16000)
        write_audio(tmp_path / row["audio"], tone.astype(np.float32), 16000)
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "se": MixConfig("noisy", noise={"coloured": 1.0}, snr_db=(0.0, 0.0)),
        "ss": MixConfig("mixture", talkers=(2, 2), offset_s=(0.1, 0.1), level_difference_db=(0.0, 0.0)),
    }[task]
    mixer, words = Mixer(recipe, read_corpus(tmp_path)), Words()
    systems = eval_systems.mixed_systems(task, mixer, mixer.rows, speech_lm(task))
    lines = judged(systems, 4, [words, *load_scorers("mel")])
    talkers = 2 if task == "ss" else 1
    assert [len(own) for own in lines.values()] == [4 * talkers] * 5  # every talker of every mixture counts
    assert len(words.heard) == 5 * 4 * talkers
    distances = [np.mean([line["mel"] for line in own]) for own in lines.values()]
    assert distances[0] == 0
    assert min(distances[1:]) > 0.1
    names = {"se": ("noisy", "enhanced"), "ss": ("mixture", "separated")}[task]
    assert list(lines)[2:] == [names[0], f"{names[0]} through the codec", names[1]]
    other = {"se": "ss", "ss": "se"}[task]
    with pytest.raises(ValueError, match=f"{other} needs a recipe of kind"):
        eval_systems.mixed_systems(other, mixer, mixer.rows, speech_lm(task))


def _voicebank(folder):
    for i in range(2):
        tone = (0.1 * np.sin(2 * np.pi * (200 + 100 * i) * np.arange(8000) / 16000)).astype(np.float32)
        for kind, noise in (("clean", 0.0), ("noisy", 0.02)):
            (folder / f"{kind}_testset_wav").mkdir(exist_ok=True, parents=True)
            noisy = tone + noise * np.random.default_rng(i).standard_normal(8000).astype(np.float32)
            write_audio(folder / f"{kind}_testset_wav" / f"p232_00{i}.wav", noisy, 16000)
        (folder / "testset_txt").mkdir(exist_ok=True)
        (folder / "testset_txt" / f"p232_00{i}.txt").write_text("the cat sat")
    return folder


def _libri2mix(folder):
    name, subset = "61-70968-0000_84-1-0002", folder / "Libri2Mix" / "wav16k" / "min" / "test"
    waves = [(0.1 * np.sin(np.arange(8000) * step)).astype(np.float32) for step in (0.1, 0.2)]
    for kind, wave in (("s1", waves[0]), ("s2", waves[1]), ("mix_clean", waves[0] + waves[1])):
        (subset / kind).mkdir(parents=True)
        write_audio(subset / kind / f"{name}.wav", wave, 16000)
    for chapter, number in (("61-70968", "0000"), ("84-1", "0002")):
        place = folder / "LibriSpeech" / "test-clean" / chapter.replace("-", "/")
        place.mkdir(parents=True)
        (place / f"{chapter}.trans.txt").write_text(f"{chapter}-{number} THE CAT\n")
    return folder


@pytest.mark.parametrize(("task", "layout", "names"), [
    ("se", "voicebank", ["recording through the codec", "noisy", "noisy through the codec", "enhanced"]),
    ("ss", "libri2mix", ["recording through the codec", "mixture", "mixture through the codec", "separated"]),
    ("codec", "voicebank", ["noisy", "folder"]),
])  # fmt: skip
def test_published_mixtures_need_no_recipe(task, layout, names, tmp_path, speech_lm):
    corpus = {"voicebank": _voicebank, "libri2mix": _libri2mix}[layout](tmp_path / "corpus")
    model = speech_lm(task) if task != "codec" else speech_lm("tts").audio_tokenizer
    model.save_pretrained(tmp_path / "folder")
    shown = evaluation.evaluate_task(task, corpus, str(tmp_path / "folder"), 0, "mel", 0, layout=layout)
    assert "n = 2, 0.0 minutes" in shown
    rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")]
    assert [Path(row).name for row in rows] == ["", "recording", *names]
    if task == "codec":  # everything is compared with the clean recordings
        assert float(shown.split("| noisy |")[1].splitlines()[0].split("|")[-2].split()[0]) > 0.1


def test_a_corpus_that_was_mixed_is_for_its_own_task(tmp_path):
    corpus, mixtures = _voicebank(tmp_path / "corpus"), _libri2mix(tmp_path / "mixtures")
    for task, data, layout in (("tts", corpus, "voicebank"), ("codec", mixtures, "libri2mix")):
        with pytest.raises(ValueError, match=r"se and ss, and only they, need --mix.*such as voicebank"):
            evaluation.evaluate_task(task, data, "mini", 0, "mel", 0, layout=layout)
    (mixtures / "LibriSpeech/test-clean/84/1/84-1.trans.txt").unlink()
    with pytest.raises(ValueError, match="has no transcripts"):
        evaluation.evaluate_task("ss", mixtures, "mini", 0, "mel", 0, layout="libri2mix")


def test_the_best_order_is_that_with_the_fewest_wrong_words():
    lines = [
        {"id": "a", "seconds": 1.0, "text": "red dog", "transcript": "blue cat", "errors": 2, "words": 2},
        {"id": "a", "seconds": 1.0, "text": "blue cat", "transcript": "red fog", "errors": 2, "words": 2},
        {"id": "b", "seconds": 1.0, "text": "bird", "transcript": "bird", "errors": 0, "words": 1},
        {"id": "b", "seconds": 1.0, "text": "fish", "transcript": "", "errors": 1, "words": 1},
    ]
    best = results.in_best_order(lines)
    assert [(line["id"], line["errors"], line["words"]) for line in best] == [
        ("a", 1, 2), ("a", 0, 2), ("b", 0, 1), ("b", 1, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("tasks", "names"), [
    (("tts",), ["spoken, ann"]),
    (("zero-shot",), ["spoken in the voice of a recording"]),
])  # fmt: skip
def test_speech_is_judged_in_every_way_that_a_model_can_speak(tasks, names, corpus, speech_lm):
    lm = speech_lm(*tasks)
    items = read_corpus(corpus)[:2]
    systems = eval_systems.speech_systems(items, lm, seed=0, others=True)
    assert [system.name for system in systems] == [
        "recording", "recording through the codec", "flite", "espeak-ng", *names
    ]  # fmt: skip
    own = [system for system in systems if system.name not in ("flite", "espeak-ng")]
    lines = judged(own, 2, [Words(), Voice()])
    assert {"same"} <= set(lines["recording"][0])
    shown = table(lines, 0)
    assert "real-time factor" in shown
    assert ("first sound after, s" in shown) == (tasks == ("tts",))
    assert ("similarity" in lines[names[0]][0]) == (tasks == ("zero-shot",))


def test_a_recipe_belongs_to_enhancement_and_separation(corpus, tmp_path):
    for task, mix in (("se", None), ("codec", tmp_path / "mix.yaml")):
        with pytest.raises(ValueError, match="se and ss, and only they, need --mix"):
            evaluation.evaluate_task(task, corpus, "mini", 0, "mel", 0, mix)
    with pytest.raises(ValueError, match="codec, tts, se and ss can be evaluated, found 'vc'"):
        evaluation.evaluate_task("vc", corpus, "mini", 0, "mel", 0)


def test_the_interval_holds_the_rate_and_narrows_with_items():
    errors, words = [0, 1, 2, 3] * 5, [5] * 20
    low, high = bootstrap(errors, words, seed=0)
    assert low < 0.3 < high
    many = bootstrap(errors * 16, words * 16, seed=0)
    assert many[1] - many[0] < 0.5 * (high - low)
    assert bootstrap(errors, words, seed=0) == (low, high)


def test_the_share_of_failures_counts_items_above_half():
    lines = [{"errors": wrong, "words": 4} for wrong in (0, 1, 3, 4)]
    assert word_cells(lines, 0)[1] == "50"


def test_a_corpus_without_transcripts_is_refused(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    with pytest.raises(ValueError, match="has no transcripts"):
        evaluation.evaluate_task("codec", tmp_path, "mini", 0, "mel", 0)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[eval\]'"):
        load_asr("faster-whisper-tiny")


def test_wrong_words_need_the_extra_and_the_error_says_so(monkeypatch):
    count = word_counter()
    assert count("The cat sat down.", "the cat set") == (2, 4)
    assert count("", "") == (1, 1)
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[eval\]'"):
        word_counter()
