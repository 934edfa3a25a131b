"""Aligned text and speech from recordings to a released model that speaks, with the commands of a user."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from focallm.data.token_store import weights_hash
from focallm.lm import SpeechLM
from focallm.tasks import speak
from focallm.tasks.cli import commands as cli
from focallm.tasks.inference.speak import stream_speech
from focallm.tokenizer import read_audio, write_audio

pytest.importorskip("espeakng_loader")

CONFIGS = Path(__file__).parents[2] / "configs"
TEXTS = ["A cat sat.", "The dog sat, too.", "A dog and a cat.", "Cats sat."]


def focallm(*words):
    sys.argv = ["focallm", *map(str, words)]
    cli.main()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    rows = [
        {"id": str(i), "audio": f"{i}.wav", "text": TEXTS[i % len(TEXTS)], "speaker": ["ann", "bob"][i % 2]}
        for i in range(12)
    ]
    for row in rows:
        write_audio(folder / row["audio"], (0.1 * rng.standard_normal(12000)).astype(np.float32), 16000)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = folder / "tokens"
    focallm("tokenize", folder, store, "--features", "--quiet")
    focallm("align", store, "--quiet")
    recipe = {
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16},
        "packing": False,
        "validation_fraction": 0.2,
        "extra_tasks": [{"task": task, "store": str(store)} for task in ("zero-shot-aligned", "pronounce")],
        "evaluate": {"samples": 3},
        "trainer": {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    focallm("train", "tts-aligned", store, folder / "run", "--recipe", folder / "recipe.yaml", "--quiet")
    return folder / "run"


def test_training_writes_samples_of_every_task(run):
    names = {path.name.split("-", 1)[1] for path in (run / "samples" / "step-2").iterdir()}
    assert {"tts-aligned.wav", "tts-aligned-original.wav", "zero-shot-aligned.wav", "pronounce.txt"} <= names


def test_a_model_speaks_with_its_voices_and_with_others(run, tmp_path, caplog):
    lm = SpeechLM.from_pretrained(run / "model")
    assert set(lm.info.voices) == {"ann", "bob"}
    result = speak("The cat sat.", lm, voice="bob", seed=3)
    units = lm.units("The cat sat.")
    longest = lm.unit_window()[1]
    # After two updates the model ends no unit by itself, and the result says so.
    assert result.stop_reason == "max_length"
    assert result.stats["num_spans_at_max"] == len(units)
    assert result.stats["attempts"] == 1  # greedy: another attempt would be the same
    assert len(units) <= result.stats["tokens"] <= longest * len(units)
    pieces = np.concatenate(list(stream_speech("The cat sat.", lm, voice="bob", seed=3)))
    assert len(pieces) == len(result.audio)
    reference = 0.1 * np.random.default_rng(1).standard_normal(80000).astype(np.float32)
    focallm("speak", "A cat.", "--out", tmp_path / "a.wav", "--model", run / "model", "--seed", 1)
    assert len(read_audio(tmp_path / "a.wav")[0]) > 0
    imitated = speak("A cat.", lm, reference=reference, sampling_rate=16000)  # no text of the reference is needed
    assert imitated.stop_reason == "max_length"
    assert "the reference lasts 5.0 s, of which the first 3 s are used" in caplog.messages
    with pytest.raises(ValueError, match="voice and reference exclude each other"):
        speak("A cat.", lm, voice="ann", reference=reference, sampling_rate=16000)


def test_words_that_no_lexicon_has_are_spelled_by_the_model(run):
    lm = SpeechLM.from_pretrained(run / "model")
    assert "catsat" not in lm.lexicon
    assert lm.units("catsat")[1:-1] != []
    assert speak("catsat", lm).stats["tokens"] > 0
    known = lm.units("cat")
    lm.lexicon = {**lm.lexicon, "catsat": lm.lexicon["cat"]}  # how a user corrects a name
    assert lm.units("catsat") == known


def test_a_model_that_cannot_spell_names_the_words(run):
    lm = SpeechLM.from_pretrained(run / "model")
    lm.info = dataclasses.replace(lm.info, templates=lm.info.templates[:1])
    with pytest.raises(ValueError, match=r"lexicon lacks zebra, yak, .*task pronounce"):
        speak("A zebra and a yak.", lm)


def test_several_texts_at_once_are_what_they_are_alone(run):
    lm = SpeechLM.from_pretrained(run / "model")
    both = speak(["A cat sat.", "Cats, and a dog!"], lm, seed=5)
    assert np.allclose(both[1].audio, speak("Cats, and a dog!", lm, seed=5).audio, atol=1e-5)


def test_a_long_text_is_said_in_pieces_that_stream_as_one(run):
    lm = SpeechLM.from_pretrained(run / "model")
    text = "A cat sat. The dog sat, too. " * 12
    result = speak(text, lm, seed=2)
    assert len(lm.units(text)) > 200
    assert result.stats["tokens"] >= len(lm.units(text))
    pieces = np.concatenate(list(stream_speech(text, lm, seed=2)))
    assert len(pieces) == len(result.audio)


def test_a_released_model_says_what_it_is(run, tmp_path, capsys, caplog):
    words = ("release", run.parent / "recipe.yaml", run, tmp_path / "out", "--license", "cc0-1.0")
    focallm(*words)
    assert "MB, and its card" in capsys.readouterr().out
    lm, record = SpeechLM.from_pretrained(tmp_path / "out"), tmp_path / "test.jsonl"
    line = {"id": "a", "seconds": 1.0, "errors": 1, "words": 4, "text": "x", "transcript": "y", "metrics": {}}

    def release_with(keys):
        lines = [{**line, "system": name, "fingerprint": key} for name, key in keys.items()]
        record.write_text("".join(json.dumps([line]) + "\n" for line in lines))
        focallm(*words, "--evaluations", record)

    others = {"recording": "", "recording through the codec": weights_hash(lm.audio_tokenizer.codec), "flite": ""}
    with pytest.raises(SystemExit, match="holds 3 results, but none of these weights"):  # its codec's are not its own
        release_with(others)
    release_with({**others, "spoken": weights_hash(lm.model)})
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| tts-aligned | " in card
    assert "Voices: " in card
    assert card.startswith("---\nlicense: cc0-1.0\n")
    config = lm.model.config
    assert f"Model type llama, {config.num_hidden_layers} layers of width {config.hidden_size}, " in card
    assert "FocalCodecModel, " in card
    assert "test\n\nn = 1, 0.0 minutes; seed 0" in card
    assert "| flite | 25.0 (25.0 to 25.0) | 0 |" in (tmp_path / "out" / "measured.md").read_text()
    assert lm.lexicon == SpeechLM.from_pretrained(run / "model").lexicon
    assert "is not recorded as finished" not in caplog.text
    (run / "finished.json").rename(tmp_path / "finished.json")
    focallm(*words)
    assert "is not recorded as finished" in caplog.text
    (tmp_path / "finished.json").rename(run / "finished.json")
    assert speak("A cat.", lm).stats["tokens"] > 0


def test_the_shipped_model_is_fine_tuned_on_a_voice(run, tmp_path):
    recipe = yaml.safe_load((CONFIGS / "lm" / "finetune_voice.yaml").read_text())
    assert recipe.pop("base") == "mini"
    trainer = {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": []}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "trainer": trainer}))
    store = run.parent / "tokens"
    options = ("--recipe", tmp_path / "recipe.yaml", "--base", "mini", "--quiet")
    focallm("train", "tts-aligned", store, tmp_path / "voice", *options)
    mini = SpeechLM.from_pretrained("mini")
    tuned = SpeechLM.from_pretrained(tmp_path / "voice" / "model")
    assert tuned.info.voices == ("ann", "bob")
    assert tuned.lexicon.keys() >= mini.lexicon.keys()
    assert "hello" not in " ".join(TEXTS).lower()
    assert len(speak("Hello, dog.", tuned).audio) > 8000
    weights = tuned.model.state_dict()
    assert any(not torch.equal(weights[name], weight) for name, weight in mini.model.state_dict().items())
    for name, weight in mini.model.state_dict().items():
        assert torch.allclose(weights[name], weight, atol=0.01)  # it started there
