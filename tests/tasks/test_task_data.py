"""What a task trains on and what it is evaluated on have nothing in common."""

import json

import numpy as np

from focallm.data.corpus import read_corpus
from focallm.data.tokenization import tokenize_corpus
from focallm.lm.training.recipe import ExtraTask, LMRecipe
from focallm.tasks.training.task_data import read_task_data
from focallm.tokenizer import AudioTokenizer, write_audio


def test_lines_of_a_text_file_are_held_out_without_repetitions(tmp_path):
    lines = ["One.", "Two.", " one. ", "A line\u2028that\x0cgoes on.", "Two.", "", "Three.", "THREE.", "Four.", "One."]
    (tmp_path / "a.txt").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    recipe = LMRecipe(validation_fraction=0.4)
    data = read_task_data(ExtraTask("text", str(tmp_path / "a.txt")), tmp_path, recipe, None, "mini")
    assert data.train_dataset["text"][:] == ["One.", "Two.", "A line\u2028that\x0cgoes on."]
    assert data.eval_dataset["text"][:] == ["Three.", "Four."]
    assert data.left_out == {"repeat another one": 4}


def test_sentences_that_several_speakers_read_are_not_evaluated_on_as_text(tmp_path, codec):
    rows = []
    for i in range(12):
        write_audio(tmp_path / f"{i}.wav", np.full(1600, 0.1), 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": f"Sentence {i // 2}.", "speaker": "ab"[i % 2]})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = AudioTokenizer(codec("mel"))
    tokenize_corpus(read_corpus(tmp_path), tmp_path / "store", tokenizer, listen=0, progress=False)
    recipe = LMRecipe(validation_fraction=0.5)
    data = read_task_data(ExtraTask("text"), tmp_path / "store", recipe, tokenizer, "x")
    train = data.train_dataset["text"][:]
    evaluated = data.eval_dataset["text"][:]
    assert not set(train) & set(evaluated)
    assert data.left_out["repeat a text of the training rows"] == 12 - len(train) - len(evaluated) > 0
