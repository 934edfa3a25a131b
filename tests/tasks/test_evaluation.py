import json
import sys
from pathlib import Path

import numpy as np
import pytest

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer
from focallm.data.token_store import weights_hash
from focallm.tasks.evaluation.evaluate import EvaluationConfig, evaluate
from focallm.tasks.evaluation.metrics import EvalSample, Metric, load_asr, load_scorers, word_counter
from focallm.tasks.evaluation.metrics.words import whisper_spellings
from focallm.tasks.evaluation.results import (
    best_permutation,
    bootstrap,
    lock_record,
    read_record,
    remarks,
    table,
    table_of_record,
    word_cells,
)
from focallm.tasks.evaluation.runner import System, choose_items, evaluate_systems
from focallm.tasks.evaluation.systems import codec_systems, mixed_systems, speech_systems
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
    """A metric that finds, in turn, no error and one error in four words."""

    name = "words"

    def __init__(self, checkpoint="first"):
        self._checkpoint = checkpoint
        self.measured = []

    @property
    def checkpoint(self):
        return self._checkpoint

    def measure(self, samples):
        self.measured += [(len(sample.audio), sample.rate) for sample in samples]
        return [{"transcript": "the cat", "errors": i % 2, "words": 4} for i in range(len(samples))]


class Voice(Metric):
    """Gives every voice the same similarity."""

    name = "voice"
    checkpoint = "constant"

    def measure(self, samples):
        return [dict.fromkeys(sample.voices, 0.5) for sample in samples]


def evaluate_items(systems, count, metrics, record=None, seed=0):
    """Evaluate the first `count` items, whose ids are their indices."""
    return evaluate_systems(systems, [str(i) for i in range(count)], metrics, seed, record)


def test_a_codec_is_evaluated_beside_the_recordings(corpus, codec):
    words, items, tokenizer = Words(), read_corpus(corpus), AudioTokenizer(codec("tiny_50hz"))
    lines = evaluate_items(codec_systems(items, tokenizer, "tiny"), 5, [words])
    assert words.measured == [(8000, 16000)] * 10
    assert [line["errors"] for line in lines["recording"]] == [0, 1, 0, 1, 0]
    assert [line["words"] for line in lines["tiny"]] == [4] * 5
    text = table(lines, seed=0)
    assert "n = 5, 0.0 minutes; seed 0" in text
    assert "| recording | 10.0 (" in text
    assert "Metrics: words: first." in text
    assert f"of {tokenizer.vocab_size} (" in "".join(remarks(lines))


def test_without_an_asr_model_only_distances_are_measured(corpus, codec):
    systems = codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    lines = evaluate_items(systems, 5, load_scorers("mel"))
    assert "| tiny | - | - |" in table(lines, 0)
    assert min(line["mel"] for line in lines["tiny"]) > 0.1


def test_results_of_a_record_are_not_measured_again(corpus, codec, tmp_path):
    words, record = Words(), tmp_path / "record.jsonl"
    systems = codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    first = evaluate_items(systems, 3, [words], record)
    with record.open("a") as file:
        file.write('[{"id": "4", "system": "tiny", "ke')  # killed while writing
    assert evaluate_items(systems, 3, [words], record) == first
    assert len(words.measured) == 6
    line = first["tiny"][0]
    assert (line["seed"], line["metrics"]) == (0, {"words": "first"})
    assert {"commit", "config", "fingerprint"} <= set(line)


def test_a_record_gains_metrics_but_results_of_another_checkpoint_or_seed_are_measured_again(corpus, codec, tmp_path):
    words, voice, record = Words(), Voice(), tmp_path / "record.jsonl"
    systems = codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    first = evaluate_items(systems, 2, [words], record)["tiny"][0]
    more = evaluate_items(systems, 2, [words, voice], record)["tiny"][0]
    assert len(words.measured) == 4
    assert more["similarity"] == 0.5
    others = {"config": "", "metrics": {}, "rtf": 1.0}  # the audio is generated again, which takes another time
    assert {**more, **others} == {**first, **others, "similarity": 0.5}
    assert more["config"] != first["config"]
    others = Words("second")
    again = evaluate_items(systems, 2, [others], record)["tiny"][0]
    assert len(others.measured) == 4
    assert again["metrics"] == {"words": "second"}
    assert "similarity" not in again
    evaluate_items(systems, 2, [others], record, seed=1)
    assert len(others.measured) == 8


def test_a_record_fits_a_codec_that_is_named_by_another_path(corpus, codec, tmp_path, monkeypatch):
    AudioTokenizer(codec("tiny_50hz")).save_pretrained(tmp_path / "runs" / "model")
    record = tmp_path / "record.jsonl"
    monkeypatch.chdir(tmp_path)
    for model in ("runs/model", str(tmp_path / "runs" / "model")):
        lines = evaluate(EvaluationConfig("codec", corpus, model, limit=2, record=record)).splitlines()
        assert any(line.startswith("| runs/model |") for line in lines)
    assert len(read_record(record)) == len(record.read_text().splitlines()) == 4


def test_a_second_process_does_not_add_to_a_record(corpus, tmp_path):
    config = EvaluationConfig("codec", corpus, limit=1, record=tmp_path / "record.jsonl")
    with lock_record(config.record), pytest.raises(OSError, match=r"record\.jsonl is in use: process \d+ on"):
        evaluate(config)
    assert not config.record.exists()


def test_a_line_that_is_no_result_is_named(tmp_path):
    record = tmp_path / "record.jsonl"
    record.write_text('{"id": "0"}\n')
    with pytest.raises(ValueError, match=r"record\.jsonl, line 1 is not a list of results"):
        read_record(record)


def test_a_metric_with_a_limit_measures_the_first_items_only(corpus, codec):
    systems = codec_systems(read_corpus(corpus), AudioTokenizer(codec("tiny_50hz")), "tiny")
    voice = Voice()
    voice.limit = 2
    lines = evaluate_items(systems, 5, [voice])["tiny"]
    assert ["similarity" in line for line in lines] == [True, True, False, False, False]


def test_a_record_of_an_older_version_is_an_error_that_says_what_to_do(tmp_path):
    record = tmp_path / "old.jsonl"
    old = {"id": "0", "system": "recording", "key": "", "judges": {"words": "first"}, "errors": 9, "words": 9}
    record.write_text(json.dumps([old]) + "\n")
    message = "without fingerprint, metrics: an older version of focallm wrote it.*--record and a new file"
    with pytest.raises(ValueError, match=message):
        evaluate_items([], 0, [], record)


def test_the_table_of_a_record_needs_results_of_the_model(codec, tmp_path):
    record, model = tmp_path / "record.jsonl", codec("tiny_50hz")
    scores = {"seconds": 1.0, "text": "a", "errors": 9, "words": 9, "quality": 3.0, "metrics": {}}
    recording = {"id": "0", "system": "recording", "fingerprint": "", **scores}
    record.write_text(json.dumps([recording]) + "\n")
    with pytest.raises(ValueError, match="holds 1 results, but none of these weights"):
        table_of_record(record, [model], 0)
    ours = {**recording, "system": "tiny", "fingerprint": weights_hash(model)}
    others = {**recording, "system": "other", "fingerprint": "123"}
    record.write_text("".join(json.dumps([result]) + "\n" for result in (ours, others, recording)))
    lines = table_of_record(record, [model], 0).splitlines()
    assert "| recording | 100.0 (100.0 to 100.0) | 100 | 3.00 |" in lines
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["", "recording", "tiny"]


def test_a_recording_that_cannot_be_read_is_left_out_of_an_evaluation(tmp_path, caplog):
    write_audio(tmp_path / "a.wav", np.full(1600, 0.1), 16000)
    (tmp_path / "b.wav").write_text("no audio")
    items = read_corpus(tmp_path)
    assert [item.id for item in choose_items(items, 0, 0)] == ["a"]
    assert "left out b: " in caplog.text
    assert "1 of 2 recordings cannot be read and are left out" in caplog.messages
    with pytest.raises(ValueError, match="none of the 1 recordings to evaluate can be read"):
        choose_items(items[1:], 0, 0)


@pytest.mark.parametrize("task", ["se", "ss"])
def test_mixed_systems_range_from_doing_nothing_to_the_codec_ceiling(task, tmp_path, speech_lm):
    rows = [{"id": str(i), "audio": f"{i}.wav", "text": "the cat", "speaker": "ab"[i % 2]} for i in range(4)]
    for i, row in enumerate(rows):
        tone = 0.1 * np.sin(2 * np.pi * (200 + 100 * i) * np.arange(8000 + 400 * i) / 16000)
        write_audio(tmp_path / row["audio"], tone.astype(np.float32), 16000)
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "se": MixConfig("noisy", noise={"colored": 1.0}, snr_db=(0.0, 0.0)),
        "ss": MixConfig("mixture", num_speakers=(2, 2), offset_s=(0.1, 0.1), level_difference_db=(0.0, 0.0)),
    }[task]
    mixer, words = Mixer(recipe, read_corpus(tmp_path)), Words()
    systems = mixed_systems(task, mixer, mixer.rows, speech_lm(task))
    lines = evaluate_items(systems, 4, [words, *load_scorers("mel")])
    num_speakers = 2 if task == "ss" else 1
    assert [len(results) for results in lines.values()] == [4 * num_speakers] * 5
    assert len(words.measured) == 5 * 4 * num_speakers
    distances = [np.mean([line["mel"] for line in results]) for results in lines.values()]
    assert distances[0] == 0
    assert min(distances[1:]) > 0.1
    names = {"se": ("noisy", "enhanced"), "ss": ("mixture", "separated")}[task]
    assert list(lines)[2:] == [names[0], f"{names[0]} through the codec", names[1]]
    other = {"se": "ss", "ss": "se"}[task]
    with pytest.raises(ValueError, match=f"evaluate {other}` needs .* input, but the mix file or the corpus provides"):
        mixed_systems(other, mixer, mixer.rows, speech_lm(task))


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
def test_a_corpus_of_published_mixtures_needs_no_mix_file(task, layout, names, tmp_path, speech_lm):
    corpus = {"voicebank": _voicebank, "libri2mix": _libri2mix}[layout](tmp_path / "corpus")
    model = speech_lm(task) if task != "codec" else speech_lm("tts").audio_tokenizer
    model.save_pretrained(tmp_path / "folder")
    text = evaluate(EvaluationConfig(task, corpus, str(tmp_path / "folder"), layout=layout))
    assert "n = 2, 0.0 minutes" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [Path(row).name for row in rows] == ["", "recording", *names]
    if task == "codec":  # everything is compared with the clean recordings
        assert float(text.split("| noisy |")[1].splitlines()[0].split("|")[-2].split()[0]) > 0.1


def test_a_mixed_corpus_is_only_for_its_own_task(tmp_path):
    corpus, mixtures = _voicebank(tmp_path / "corpus"), _libri2mix(tmp_path / "mixtures")
    for task, data, layout in (("tts", corpus, "voicebank"), ("codec", mixtures, "libri2mix")):
        with pytest.raises(ValueError, match=rf"`evaluate {task}` needs clean recordings.*use `evaluate s[es]`"):
            evaluate(EvaluationConfig(task, data, layout=layout))
    (mixtures / "LibriSpeech/test-clean/84/1/84-1.trans.txt").unlink()
    with pytest.raises(ValueError, match="has no transcripts"):
        evaluate(EvaluationConfig("ss", mixtures, layout="libri2mix"))


def test_the_best_permutation_has_the_fewest_wrong_words():
    lines = [
        {"id": "a", "seconds": 1.0, "text": "red dog", "transcript": "blue cat", "errors": 2, "words": 2},
        {"id": "a", "seconds": 1.0, "text": "blue cat", "transcript": "red fog", "errors": 2, "words": 2},
        {"id": "b", "seconds": 1.0, "text": "bird", "transcript": "bird", "errors": 0, "words": 1},
        {"id": "b", "seconds": 1.0, "text": "fish", "transcript": "", "errors": 1, "words": 1},
    ]
    best = best_permutation(lines)
    assert [(line["id"], line["errors"], line["words"]) for line in best] == [
        ("a", 1, 2), ("a", 0, 2), ("b", 0, 1), ("b", 1, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("tasks", "names"), [
    (("tts",), ["spoken, ann"]),
    (("zero-shot",), ["spoken in the voice of a recording"]),
])  # fmt: skip
def test_speech_is_evaluated_in_every_voice_of_a_model(tasks, names, corpus, speech_lm):
    lm = speech_lm(*tasks)
    items = read_corpus(corpus)[:2]
    systems = speech_systems(items, lm, seed=0, baselines=True)
    assert [system.name for system in systems] == [
        "recording", "recording through the codec", "flite", "espeak-ng", *names
    ]  # fmt: skip
    without_programs = [system for system in systems if system.name not in ("flite", "espeak-ng")]
    lines = evaluate_items(without_programs, 2, [Words(), Voice()])
    assert {"same"} <= set(lines["recording"][0])
    text = table(lines, 0)
    assert "real-time factor" in text
    assert ("time to first audio, s" in text) == (tasks == ("tts",))
    assert ("similarity" in lines[names[0]][0]) == (tasks == ("zero-shot",))


def test_mix_files_are_for_enhancement_and_separation(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"`evaluate se` and `evaluate ss` need noisy or mixed input\. Pass --mix"):
        evaluate(EvaluationConfig("se", corpus))
    with pytest.raises(ValueError, match=r"`evaluate codec` does not take --mix.*Only `evaluate se` and `evaluate ss`"):
        EvaluationConfig("codec", corpus, mix=tmp_path / "mix.yaml")
    with pytest.raises(ValueError, match="unknown task 'vc': `evaluate` takes one of codec, tts, se, ss"):
        EvaluationConfig("vc", corpus)


def test_the_interval_contains_the_rate_and_narrows_with_items():
    errors, words = [0, 1, 2, 3] * 5, [5] * 20
    low, high = bootstrap(errors, words, seed=0)
    assert low < 0.3 < high
    many = bootstrap(errors * 16, words * 16, seed=0)
    assert many[1] - many[0] < 0.5 * (high - low)
    assert bootstrap(errors, words, seed=0) == (low, high)


def test_the_failure_rate_counts_items_with_more_than_half_of_the_words_wrong():
    lines = [{"errors": wrong, "words": 4} for wrong in (0, 1, 3, 4)]
    assert word_cells(lines, 0)[1] == "50"


def test_a_corpus_without_transcripts_is_an_error(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    with pytest.raises(ValueError, match="has no transcripts"):
        evaluate(EvaluationConfig("codec", tmp_path))


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[eval\]'"):
        load_asr("faster-whisper-tiny")


def test_counting_words_needs_the_extra_and_the_error_says_so(monkeypatch):
    count = word_counter()
    assert count("The cat sat down.", "the cat set") == (2, 4)
    whisper_spellings.cache_clear()
    for package in ("whisper_normalizer", "rapidfuzz.distance"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=r"pip install 'focallm\[eval\]'"):
                word_counter()


def test_undefined_scores_are_left_out_of_the_means_and_counted(tmp_path):
    class Half(Metric):
        name = "half"
        checkpoint = "any"
        score_names = ("pesq",)

        def measure(self, samples):
            return [{"pesq": 2.0} if sample.text != "b" else {} for sample in samples]

    class Other(Half):
        name = "other"
        score_names = ("stoi",)

    wave = np.zeros(1600, np.float32)
    system = System("it", "", lambda i: [EvalSample(wave, 16000, "ab"[i])])
    record = tmp_path / "record.jsonl"
    results = evaluate_items([system], 2, [Half()], record)
    text = table(results, 0)
    assert "| it | - | - | 2.00 |" in text
    assert "Undefined in it, and left out of the means: PESQ of 1." in text
    # Metrics that a record gains add to what is undefined.
    results = evaluate_items([system], 2, [Half(), Other()], record)
    assert results["it"][1]["undefined"] == ["pesq", "stoi"]
    assert "STOI of 2, PESQ of 1." in table(results, 0)


def test_references_without_words_have_no_rate_but_their_insertions_count():
    lines = [
        {"text": "", "seconds": 1.0, "errors": 2, "words": 0},
        {"text": "a", "seconds": 1.0, "errors": 0, "words": 4},
    ]
    assert word_cells(lines, 0)[0].startswith("50.0 (")
    assert word_cells(lines, 0)[1] == "0"
    assert word_cells(lines[:1], 0) == ["-", "-"]
    assert "error rate of 1." in table({"it": lines}, 0)
    assert np.isnan(bootstrap([2], [0], seed=0)).all()


def test_the_table_says_when_error_rates_count_characters():
    line = {"text": "今天天气很好", "seconds": 1.0, "errors": 1, "words": 6}
    assert "character error rate, %" in table({"it": [line]}, 0)
    assert "character" not in table({"it": [{**line, "text": "fine"}]}, 0)


def test_phonemes_have_a_column():
    lines = [{"text": "a", "seconds": 1.0, "phoneme_errors": i, "phonemes": 4} for i in (1, 0)]
    assert "| phonemes wrong, % |" in table({"it": lines}, 0)
    assert "| it | - | - | 12.5 (" in table({"it": lines}, 0)


def test_the_best_permutation_counts_in_the_language_of_the_results():
    lines = []
    for text, transcript in (("कि", "की"), ("की", "कि")):
        words = {"text": text, "transcript": transcript, "errors": 1, "words": 1, "language": "hi"}
        lines.append({"id": "a", "seconds": 1.0, **words})
    assert [line["errors"] for line in best_permutation(lines)] == [0, 0]
