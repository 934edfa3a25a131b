import json

import torch

from focallm.lm import SpeechLM, Vocabulary
from focallm.tasks.benchmarks.lm import benchmark_lm
from focallm.tasks.benchmarks.record import make_record, make_row, markdown_table
from focallm.tasks.benchmarks.train import benchmark_train
from focallm.tasks.cli.evaluation import benchmark
from focallm.tokenizer import AudioTokenizer


def test_both_generate_the_same_tokens(codec):
    torch.manual_seed(0)
    audio_tokenizer = AudioTokenizer(codec("tiny_50hz"))
    lm = SpeechLM.from_config("tiny", audio_tokenizer, Vocabulary.characters(["abc"], audio_tokenizer.vocab_size))
    for parameter in lm.model.parameters():  # a fresh model's logits nearly tie
        parameter.data = torch.randn_like(parameter) * 0.3
    record = benchmark_lm(lm, batch=2, tokens=5, threads=1)
    assert [(row["case"], row["against"]) for row in record["rows"]] == [
        ("1 x 5 codes", "transformers.generate"),
        ("2 x 5 codes", "transformers.generate"),
        ("2 x 5 codes", "focallm, one by one"),
    ]
    assert record["same_tokens"] == "2 of 2"
    assert "written-out step" in markdown_table(record)


def test_all_ways_to_train_see_every_example():
    record = benchmark_train("tiny", threads=1, num_examples=9)
    assert [row["case"] for row in record["rows"]] == ["similar lengths", "packed"]
    assert {row["against"] for row in record["rows"]} == {"random order, padded"}
    assert min(record["positions"].values()) >= record["useful_ids"]
    assert record["positions"]["packed"] <= record["positions"]["random order"]


def test_a_benchmark_writes_its_record(tmp_path, monkeypatch):
    record = make_record("Training", 1, [make_row("packed", [1.0, 2.0], "padded", [3.0, 4.0])])
    monkeypatch.setattr("focallm.tasks.benchmarks.train.benchmark_train", lambda *arguments: record)
    assert "| packed | 1.5 | padded | 3.5 | 2.50" in benchmark("train", out=tmp_path / "train.json")
    assert json.loads((tmp_path / "train.json").read_text()) == record
