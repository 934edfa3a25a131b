import itertools
import json

import torch

from focallm.lm import SpeechLM, Vocabulary
from focallm.tasks.benchmarks.enhance import benchmark_enhance
from focallm.tasks.benchmarks.lm import benchmark_lm
from focallm.tasks.benchmarks.record import make_record, make_row, markdown_table
from focallm.tasks.benchmarks.tokenize import benchmark_tokenize
from focallm.tasks.benchmarks.train import benchmark_train
from focallm.tasks.cli.evaluation import benchmark
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.focalcodec.inputs import group_items


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


def test_tokenization_is_compared_with_the_codec_alone(codec, tmp_path):
    AudioTokenizer(codec("tiny_50hz")).save_pretrained(tmp_path)
    (row,) = benchmark_tokenize(tmp_path, threads=1, num_files=3)["rows"]
    assert (row["case"], row["against"]) == ("tokenize, 3 files of 1 to 5 s", "the codec alone")
    assert row["seconds"] > 0


def test_enhancement_is_compared_with_deep_filter_net(denoising_codec, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr("focallm.tasks.benchmarks.enhance.deep_filter", lambda audio, rate: heard.append(len(audio)))
    AudioTokenizer(denoising_codec).save_pretrained(tmp_path)
    record = benchmark_enhance(tmp_path, threads=1)
    assert [row["case"] for row in record["rows"]] == ["enhance, 2 s", "enhance, 10 s"]
    assert set(heard) == {32000, 160000}


def test_items_are_grouped_by_size_within_the_limit():
    sizes = [3, 9, 1, 2, 3, 20]
    groups = group_items(sizes, 10)
    assert sorted(itertools.chain(*groups)) == list(range(6))
    assert groups[:2] == [[5], [1]]  # long ones alone, longest first
    for group in groups[2:]:
        assert sizes[group[0]] == max(sizes[i] for i in group)
        assert len(group) * sizes[group[0]] <= 10
