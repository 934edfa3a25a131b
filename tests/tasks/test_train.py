import json
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models

from focallm.data.corpus import read_corpus
from focallm.data.tokenization import tokenize_corpus
from focallm.lm import SpeechLM
from focallm.lm.embeddings import new_ids
from focallm.lm.training.run_folder import last_checkpoint
from focallm.tasks import separate, speak
from focallm.tasks.definitions import TEMPLATES
from focallm.tasks.training.train_lm import _describe_mixtures, train_task
from focallm.tokenizer import AudioTokenizer, write_audio

RECIPE = """
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, attention_dropout: 0.1}
max_length: 200
validation_fraction: 0.2
prompt_dropout: 0.3
evaluate: {samples: 0}
trainer:
  max_steps: 2
  per_device_train_batch_size: 1
  learning_rate: 1.0e-2
  use_cpu: true
  eval_strategy: "no"
  report_to: []
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, codec):
    """A folder with a codec, a token store of a few utterances and a recipe."""
    folder = tmp_path_factory.mktemp("place")
    audio_tokenizer = AudioTokenizer(codec("tiny_25hz"))
    audio_tokenizer.save_pretrained(folder / "codec")
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        write_audio(folder / f"{i}.wav", 0.1 * rng.standard_normal(8000 + 500 * i).astype(np.float32), 16000)
        text = f"what number {i} says " * (1 + i // 23 * 20)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": text, "speaker": "ab"[i % 2]})
    rows[0]["text"] = None
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenize_corpus(read_corpus(folder), folder / "store", audio_tokenizer, listen=0, progress=False)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def run(place, folder, recipe, task="tts"):
    """Train in this process, with a recipe's text; -> its weights and log."""
    path = folder.with_suffix(".yaml")
    path.write_text(recipe)
    train_task(task, place / "store", folder, path, str(place / "codec"), quiet=True)
    return load_file(folder / "model" / "model.safetensors"), losses(folder)


def losses(folder):
    log = json.loads((last_checkpoint(folder) / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def command(place, folder, recipe):
    """The same on the command line."""
    path = folder.with_suffix(".yaml")
    path.write_text(recipe)
    words = ["tts", place / "store", folder, "--recipe", path, "--codec", place / "codec", "--quiet"]
    return ["-m", "focallm.tasks", "train", *map(str, words)]


def test_from_a_token_store_to_a_model_that_speaks(place, tmp_path, capsys, caplog):
    message = train_task("tts", place / "store", tmp_path / "run", place / "recipe.yaml", str(place / "codec"))
    assert "validation loss" in message
    output = capsys.readouterr().out
    assert "ln 8192 = 9.01" in output
    assert "update 1: loss 8.9" in output
    assert "{'" not in output  # no dictionaries
    assert (tmp_path / "run" / "preview" / "tts.wav").is_file()
    assert "1 rows have no text" in caplog.text
    assert "1 rows are longer than max_length (200 ids)" in caplog.text
    lm = SpeechLM.from_pretrained(tmp_path / "run" / "model")
    assert set(lm.info.voices) == {"a", "b"}
    assert lm.model.config.use_cache
    assert speak("what", lm).stop_reason in ("end", "max_length")
    message = train_task("tts", place / "store", tmp_path / "run", place / "recipe.yaml", str(place / "codec"))
    assert "is finished, so nothing was trained" in message
    assert not capsys.readouterr().out  # and no preview


def test_the_number_of_speakers_in_mixtures_is_kept(speech_lm, tmp_path):
    lm = speech_lm("ss")
    mixtures = {"sources": [[[1], [2]], [[1], [2], [3]], [[4], [5]]]}
    data = SimpleNamespace(template=TEMPLATES["ss"], train_dataset=mixtures)
    speech = SimpleNamespace(template=TEMPLATES["tts"], train_dataset={})
    _describe_mixtures(lm, [speech, data])
    lm.save_pretrained(tmp_path)
    lm = SpeechLM.from_pretrained(tmp_path)
    assert lm.info.max_speakers == 3
    noise = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    assert len(separate(noise, lm, 3, sampling_rate=16000).audio) == 3
    with pytest.raises(ValueError, match=r"up to 3 speakers, found num_speakers=9.*configs/mix/separation_3\.yaml"):
        separate(noise, lm, 9, sampling_rate=16000)


LONG = RECIPE.replace("max_steps: 2", "max_steps: 60\n  save_strategy: steps\n  save_steps: 5\n  logging_steps: 1")


def test_a_run_that_was_killed_ends_with_the_weights_of_an_unbroken_one(place, tmp_path):
    whole, curve = run(place, tmp_path / "whole", LONG)
    broken = tmp_path / "broken"
    process = subprocess.Popen([sys.executable, *command(place, broken, LONG)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (broken / "checkpoint-15").exists():
        time.sleep(0.01)
    time.sleep(random.random() * 0.2)  # anywhere in a step, or in writing a checkpoint
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    weights, again = run(place, broken, LONG)
    assert again == curve
    assert all(torch.equal(whole[key], value) for key, value in weights.items())


def test_an_incomplete_checkpoint_is_passed_over(tmp_path):
    for step, content in ((5, "{}"), (10, "{"), (15, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_run_is_not_continued_as_another(place, tmp_path):
    run(place, tmp_path / "run", RECIPE)
    with pytest.raises(ValueError, match=r"holds a run that differs in \['prompt_dropout'\]"):
        run(place, tmp_path / "run", RECIPE.replace("0.3", "0.2"))


def test_two_processes_train_as_one_with_twice_the_accumulation(place, tmp_path):
    more = f"extra_tasks: [{{task: tts, store: {place / 'store'}, repeat: 3}}]\n"  # enough for one epoch
    recipe = (more + RECIPE).replace("attention_dropout: 0.1", "attention_dropout: 0.0")
    recipe = recipe.replace("samples: 0", "samples: 2").replace('eval_strategy: "no"', "eval_strategy: epoch")
    best = "max_steps: 6\n  logging_steps: 1\n  load_best_model_at_end: true\n  metric_for_best_model: duration_ratio"
    recipe = recipe.replace("max_steps: 2", best)
    two = tmp_path / "two"
    launcher = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]  # and no GPU
    subprocess.run([sys.executable, *launcher, *command(place, two, recipe)], check=True, capture_output=True)
    _, single = run(place, tmp_path / "one", recipe + "  gradient_accumulation_steps: 2\n")
    assert len(single) == 6
    assert losses(two) == pytest.approx(single, rel=1e-4)


def test_a_voice_is_imitated_from_another_recording_and_texts_are_mixed_in(place, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("a line of text\n\nand another\nand a third\n")
    extra_tasks = f"extra_tasks: [{{task: text, store: {tmp_path / 'lines.txt'}, repeat: 2}}]\n"
    (tmp_path / "r.yaml").write_text(extra_tasks + RECIPE.replace("200", "300"))
    train_task("zero-shot", place / "store", tmp_path / "run", tmp_path / "r.yaml", str(place / "codec"))
    output = capsys.readouterr().out
    assert "<|reference|>what number" in output
    assert "2 times per epoch" in output
    info = SpeechLM.from_pretrained(tmp_path / "run" / "model").info
    assert [template.name for template in info.templates] == ["zero-shot", "text"]
    assert info.voices == ()
    assert info.length_window is not None


def test_a_store_of_another_codec_is_refused(place, tmp_path, codec):
    AudioTokenizer(codec("tiny_50hz")).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"differs from .* in .*'weights_sha256'.*'frame_rate'"):
        train_task("tts", place / "store", tmp_path / "run", place / "recipe.yaml", str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


def test_a_store_with_nothing_to_train_on_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match="gives 0 examples to train on"):
        run(place, tmp_path / "run", RECIPE.replace("max_length: 200", "max_length: 3"))


def test_a_store_without_the_columns_of_a_task_says_how_to_make_them(place, tmp_path):
    with pytest.raises(
        ValueError, match=r"ss-features needs \['mixture_features', 'sources'\].*\n.*_2.yaml --features"
    ):
        run(place, tmp_path / "run", RECIPE, "ss-features")


def test_an_unknown_task_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match="no task is called 'sing'"):
        run(place, tmp_path / "run", RECIPE, "sing")


WHO = """
templates:
- name: who
  segments:
  - {kind: codes, control: recording, field: codes}
  - {kind: text, control: said_by, field: speaker, target: true}
"""


@pytest.mark.parametrize("text", ["characters", "a tokenizer"])
def test_a_recipe_adds_a_task_with_a_template(place, tmp_path, text):
    if text != "characters":
        text = tmp_path / "tokenizer.json"
        Tokenizer(models.WordLevel({"[unk]": 0, "a": 1, "b": 2}, unk_token="[unk]")).save(str(text))
    run(place, tmp_path / "run", f"text: {text}\n{WHO}{RECIPE}", "who")
    lm = SpeechLM.from_pretrained(tmp_path / "run" / "model")
    assert {"recording", "said_by"} <= set(lm.vocabulary.controls)
    prompt = lm.info.template("who").prompt(lm.vocabulary, (1, 3), codes=[1, 2])
    assert prompt.ids[0] == lm.vocabulary.control("recording") in new_ids(lm.vocabulary)
    assert ("w" in lm.vocabulary.tokenizer.get_vocab()) == (text == "characters")
    assert lm.vocabulary.control("said_by") not in lm.vocabulary.text_ids("<|said_by|>")
    assert len(lm.generate(prompt).spans[0]) <= 3


def test_a_template_that_is_none_is_refused(place, tmp_path):
    for broken in ("segments", "kind: text", "said_by", "target: true"):
        with pytest.raises(ValueError, match=r"template|segment"):
            run(place, tmp_path / "run", WHO.replace(broken, "Oops: 1" if ":" in broken else "Oops") + RECIPE, "who")
