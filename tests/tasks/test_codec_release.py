"""From a recipe of several stages to a table of the paper and to weights with their card, with tiny codecs."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from focallm.data.corpus import read_corpus, summarize_corpus
from focallm.tasks.cli import commands as cli
from focallm.tasks.evaluation import baselines
from focallm.tasks.evaluation.metrics import Metric
from focallm.tasks.evaluation.results import remarks, table
from focallm.tasks.evaluation.runner import evaluate_systems
from focallm.tasks.evaluation.systems import codec_systems
from focallm.tasks.paper.codecs import ablation_table
from focallm.tasks.paper.table_config import TableConfig
from focallm.tasks.release import release, release_codec, training_hours
from focallm.tasks.training.train_codec import train_stages
from focallm.tokenizer import AudioTokenizer, write_audio
from focallm.tokenizer.runs import locked

CHAIN = Path(__file__).parents[1] / "fixtures" / "codec_chain.yaml"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        t = np.arange(9600) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (150 + 50 * i + 100 * t) * t) + 0.02 * rng.standard_normal(len(t))
        write_audio(folder / f"{i}.wav", wave.astype(np.float32), 16000)
        license_key = "license" if i % 2 else "licence"  # both spellings are read
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": "one two", "speaker": "ab"[i % 2], license_key: "CC0"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert "adversarial/model holds the codec" in train_stages(CHAIN, corpus, folder, None, None, quiet=True)
    return folder


class CountingMetric(Metric):
    """Gives every sample the same scores, and counts the samples."""

    name, checkpoint, num_samples = "all", "one word of two", 0

    def measure(self, samples):
        self.num_samples += len(samples)
        scores = {"errors": 1, "words": 2, "quality": 3.0}
        return [scores | dict.fromkeys(sample.voices, 1.0) for sample in samples]


def evaluate_codec(items, model, metric, record):
    """Evaluate a codec, and return the table of the recordings and of the codec."""
    tokenizer = AudioTokenizer.from_pretrained(model)
    systems = codec_systems(items, tokenizer, str(model))
    lines = evaluate_systems(systems, [item.id for item in items], [metric], record=record)
    return "\n".join([table(lines, 0), *remarks(lines)])


def test_discriminators_go_on_where_another_stage_left_them(run):
    before, after = (torch.load(run / name / "checkpoint.pt", weights_only=True) for name in ("decoder", "adversarial"))
    steps = [next(iter(state["gan"]["optimizer"]["state"].values()))["step"] for state in (before, after)]
    assert steps == [2, 4]
    assert not any(name.startswith("compressor") for name in after["weights"])  # tokens do not change


def test_stages_that_are_done_are_not_trained_again(run, corpus):
    before = (run / "adversarial" / "log.jsonl").read_bytes()
    train_stages(CHAIN, corpus, run, None, None, quiet=True)
    assert (run / "adversarial" / "log.jsonl").read_bytes() == before


def test_a_run_goes_on_under_another_path_and_after_a_move(run, corpus, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "moved")
    (tmp_path / "moved" / "adversarial" / "finished.json").unlink()  # as after a kill before the end
    monkeypatch.chdir(tmp_path)
    before = (run / "adversarial" / "model" / "model.safetensors").read_bytes()
    train_stages(CHAIN, corpus, Path("moved"), None, None, quiet=True)
    assert (tmp_path / "moved" / "adversarial" / "model" / "model.safetensors").read_bytes() == before


def test_stages_from_other_weights_are_another_run(run, corpus, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run / "quantizer" / "model", tmp_path / "run" / "decoder" / "model", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"adversarial holds a run whose recipe differs in \['parts_from'\]"):
        train_stages(CHAIN, corpus, tmp_path / "run", "adversarial", None, quiet=True)


def test_two_processes_do_not_train_in_one_folder(run, corpus):
    with locked(run / "decoder"), pytest.raises(OSError, match=r"decoder is in use: process \d+ on"):
        train_stages(CHAIN, corpus, run, None, None, quiet=True)


def test_a_run_goes_on_with_the_corpus_that_it_began_with(run, corpus, tmp_path):
    lines = (corpus / "manifest.jsonl").read_text().splitlines()
    other = corpus / "other.jsonl"
    other.write_text("\n".join(lines[:3]))
    with pytest.raises(ValueError, match=r"was trained on another corpus of 4 utterances.*this one has 3"):
        train_stages(CHAIN, other, run, None, None, quiet=True)


def test_one_stage_is_trained_alone(corpus, tmp_path):
    assert "teacher holds the teacher" in train_stages(CHAIN, corpus, tmp_path, "teacher", None, quiet=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["teacher"]
    with pytest.raises(
        ValueError,
        match=r"takes one of the stages of .*\['teacher', 'quantizer', 'decoder', 'adversarial'\], found 'vocie'",
    ):
        train_stages(CHAIN, corpus, tmp_path, "vocie", None, quiet=True)


def test_the_card_holds_what_the_run_recorded(run, corpus, tmp_path):
    out = tmp_path / "tiny"
    release_codec(CHAIN, run, out, "cc0-1.0", [], seed=0)
    metric, record = CountingMetric(), tmp_path / "heldout.jsonl"
    items = read_corpus(corpus)
    text = evaluate_codec(items, out, metric, record)
    assert metric.num_samples == 8
    assert evaluate_codec(items, out, metric, record) == text
    assert metric.num_samples == 8  # everything was in the record
    release_codec(CHAIN, run, out, "cc0-1.0", [record], seed=0)
    card = (out / "README.md").read_text()
    assert text in card
    assert f"`{summarize_corpus(items)['sha256']}`" in card
    assert card.startswith("---\nlicense: cc0-1.0\n")
    assert "| weights | cc0-1.0 |" in card
    assert "Unknown: no measurement" not in card
    assert "\nFocalCodecModel: 16000 Hz speech <-> " in card
    assert "| not named | CC0 | 2 | 4 | 0.00 |" in card
    for stage in ("teacher", "quantizer", "decoder", "adversarial"):
        assert f"| {stage} | 2 | " in card
    assert AudioTokenizer.from_pretrained(out).vocab_size == 64


def test_what_killed_processes_left_is_not_released(run, tmp_path):
    out = tmp_path / "out"
    for name in (".saving-0/model.safetensors", "below/.saving-1/model.safetensors", ".README.0.part.md", ".a.part"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    release(CHAIN, run, out, "cc0-1.0", [], seed=0)
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    # Besides the code with which transformers opens the folder.
    assert {path.name for path in out.rglob("*") if path.is_file() and path.suffix != ".py"} == names


def test_the_card_says_where_parts_came_from_that_the_run_did_not_begin(run, corpus, tmp_path):
    recipe = yaml.safe_load(CHAIN.read_text())["stages"]["quantizer"]
    del recipe["teacher"]
    recipe |= {
        "trainable_parts": ["decompressor"],
        "parts_from": dict.fromkeys(("compressor", "decompressor", "decoder"), str(run / "adversarial/model")),
    }
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"stages": {"again": recipe}}))
    train_stages(tmp_path / "again.yaml", corpus, tmp_path / "run", None, None, quiet=True)
    release_codec(tmp_path / "again.yaml", tmp_path / "run", tmp_path / "out", "cc0-1.0", [], seed=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"The compressor is that of {run}/adversarial/model." in card
    assert f"The decoder is that of {run}/adversarial/model." in card
    assert f"The decompressor started from that of {run}/adversarial/model." in card


def test_the_card_names_the_origin_of_whisper(corpus, tmp_path):
    stack = {"type": "convnext", "hidden_dims": [8], "factors": [1], "depth": 1}
    recipe = {
        "stage": "decoder",
        "model": {
            "encoder": {"type": "whisper", "num_layers": 2, "dim": 16, "ffn_dim": 16, "num_heads": 2},
            "compressor": {**stack, "input_dim": 16, "output_dim": 6},
            "quantizer": {"codebook_size": 64},
            "decompressor": {**stack, "input_dim": 6, "output_dim": 16},
            "decoder": {"type": "vocos", "input_dim": 16, "num_layers": 1, "dim": 16, "ffn_dim": 32},
        },
        **{"steps": 1, "batch_size": 1, "clip_seconds": 0.4, "validation_files": 1, "gan": None},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train_stages(tmp_path / "recipe.yaml", corpus, tmp_path / "run", None, None, quiet=True)
    release_codec(tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "out", "cc0-1.0", [], seed=0)
    assert (
        "first 2 layers of that of Whisper base by OpenAI, under the MIT license"
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_a_record_of_other_weights_is_no_measurement_of_these(run, corpus, tmp_path):
    items, record = read_corpus(corpus), tmp_path / "r.jsonl"
    evaluate_codec(items, "mini", CountingMetric(), record)
    with pytest.raises(ValueError, match=r"holds 8 results, but none of these weights.*--record .*r\.jsonl"):
        release_codec(CHAIN, run, tmp_path / "tiny", "cc0-1.0", [record], seed=0)


def test_a_run_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no run at .*nope: name the folder"):
        release(CHAIN, tmp_path / "nope", tmp_path / "out", "cc0-1.0", [], seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_finished_is_not_released(tmp_path):
    with pytest.raises(OSError, match=r"not trained yet: .*teacher.*focallm train-codec"):
        release_codec(CHAIN, tmp_path, tmp_path / "out", "cc0-1.0", [], seed=0)


def test_the_license_is_required(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["focallm", "release", str(CHAIN), str(run), "out"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "the following arguments are required: --license" in capsys.readouterr().err


def test_training_hours_leave_interruptions_out():
    assert training_hours([]) == 0
    assert training_hours([0, 36, 72, 5000, 5036, 4000]) == pytest.approx(0.03)


def test_a_table_reports_voice_similarity_and_code_usage():
    scores = {"errors": 1, "words": 2, "seconds": 60.0}
    lines = {
        "recording": [{**scores, "errors": 0, "quality": 3.0, "same": 0.8, "other": 0.5}] * 4,
        "codec": [
            {**scores, "bit_rate": 650, "similarity": 0.75, "mel": 0.5, "codes": [0, 1], "codebook_sizes": [4]},
        ]
        * 4,
    }
    text = "\n".join([table(lines, seed=0), *remarks(lines)])
    assert "n = 4, 4.0 minutes; DNSMOS of the first 4; seed 0" in text
    assert "| codec | 50.0 (50.0 to 50.0) | 0 | 650 |  | 0.750 | 0.500 |" in text
    assert "one speaker: 0.800; of two speakers: 0.500" in text
    assert "2 of 4 (50.0 %) in 8 tokens, 55.6 % of the number expected under uniform use" in text
    assert "entropy 1.00 bits, normalized by the" in text


@pytest.mark.parametrize("name", baselines.CODEC_PROGRAMS)
def test_classical_codecs_keep_length_and_loudness(name):
    if any(shutil.which(program) is None for program in baselines.CODEC_PROGRAMS[name][0]):
        with pytest.raises(ImportError, match="apt-get install codec2 opus-tools"):
            baselines.run_codec_program(name, np.zeros(16000, np.float32), 16000)
        return
    t = np.arange(32000) / 16000
    wave = sum(0.1 / k * np.sin(2 * np.pi * 140 * k * t) for k in range(1, 12)).astype(np.float32)
    again, bit_rate = baselines.run_codec_program(name, wave, 16000)
    assert abs(len(again) - len(wave)) < 0.1 * 16000
    assert 0.3 < np.std(again) / np.std(wave) < 3
    assert 0.9 < bit_rate / baselines.CODEC_PROGRAMS[name][2] < 2  # with its container


def test_the_ablation_shows_trained_rows_and_how_to_train_the_others(run, corpus, tmp_path):
    with pytest.raises(OSError, match=r"holds no row of the ablation(.|\n)*ablation/focal.yaml"):
        ablation_table(TableConfig(data=(corpus,), runs=tmp_path))
    for name in ("focal", "lfq"):
        shutil.copytree(run / "adversarial" / "model", tmp_path / "ablation" / name / "model")
    table = ablation_table(TableConfig(data=(corpus,), runs=tmp_path))
    measured = {row.name: row.cells for row in table.rows if not row.source}
    assert list(measured) == ["Reference", "focal", "lfq"]
    assert measured["focal"].keys() >= {"compressor", "activation", "quantizer", "decoder", "params", "mel"}
    assert {row.name: row.cells["dwer"] for row in table.rows if row.source}["lfq"] == 2.75
    notes = "\n".join(table.notes)
    assert f"focallm train-codec configs/codec/ablation/wavenext.yaml CORPUS {tmp_path}/ablation/wavenext" in notes
    assert "ablation/lfq.yaml" not in notes


def test_the_commands_are_there(run, corpus, tmp_path, monkeypatch, capsys):
    shutil.copytree(run / "adversarial" / "model", tmp_path / "ablation" / "focal" / "model")
    for words in (
        ["tables", "6", "--runs", str(tmp_path), "--data", str(corpus), "--limit", "2", "--quiet"],
        ["release", str(CHAIN), str(run), str(tmp_path / "out"), "--license", "cc0-1.0"],
    ):
        monkeypatch.setattr(sys, "argv", ["focallm", *words])
        cli.main()
    output = capsys.readouterr().out
    assert "Table 6: the parts of FocalCodec" in output
    assert "and its card" in output
    monkeypatch.setattr(sys, "argv", ["focallm", "evaluate", "codec", str(corpus), "--scorers", "all"])
    with pytest.raises(SystemExit, match="unknown scorers 'all': choose one of published, offline, mel"):
        cli.main()
