"""Whole training runs of tiny codecs: their files, and that stopped, killed and distributed runs end equally."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from focallm.tokenizer import AudioTokenizer, FocalCodecModel, write_audio
from focallm.tokenizer.codec import code_usage
from focallm.tokenizer.files import first_not_finite
from focallm.tokenizer.training import trainer, validation
from focallm.tokenizer.training.build import build_stage
from focallm.tokenizer.training.config import StageConfig, load_stage
from focallm.tokenizer.training.teacher import Teacher
from focallm.tokenizer.training.trainer import train_codec
from focallm.tokenizer.training.validation import edit_distance

FOCAL = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}
MODEL = {
    "encoder": {"type": "mel", "dim": 20},
    "compressor": {"input_dim": 20, "output_dim": 6, **FOCAL},
    "quantizer": {"codebook_size": 64},
    "decompressor": {"input_dim": 6, "output_dim": 20, **FOCAL},
    "decoder": {"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
}


def settings(stage, model=MODEL, **values) -> dict:
    """Settings of a stage that is trained in a second."""
    common = {"stage": stage, "steps": 2, "batch_size": 2, "warmup_steps": 1, "validation_files": 1}
    if stage != "teacher":
        common |= {"model": model, "clip_seconds": 0.4}
    if stage in ("decoder", "joint"):
        common |= {"gan": {"width": 0.01, "scales": 1}}
    return {**common, "checkpoint_every": 3, **values}


def stage_config(*arguments, **values) -> StageConfig:
    return load_stage(settings(*arguments, **values), "recipe.yaml")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Five files of a gliding tone with noise."""
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for i in range(5):
        t = np.arange(12000) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (150 + 50 * i + 100 * t) * t) + 0.02 * rng.standard_normal(len(t))
        write_audio(folder / f"{i}.wav", wave.astype(np.float32), 16000)
    return sorted(folder.glob("*.wav"))


def moved(config: StageConfig, after: torch.nn.Module) -> set[str]:
    """Names of the parameters that changed in training."""
    torch.manual_seed(config.seed)
    before = build_stage(config).trained_model.state_dict()
    return {name for name, value in after.state_dict().items() if not torch.equal(before[name], value)}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_quantizer_stage_learns(speech, tmp_path):
    train_codec(stage_config("quantizer", steps=40, evaluate_every=2, learning_rate=3e-3), speech, tmp_path, quiet=True)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    errors = [entry["validation_mse"] for entry in log if "validation_mse" in entry]
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("stage", ["quantizer", "decoder"])
def test_a_stopped_run_ends_like_an_uninterrupted_one(stage, speech, tmp_path, monkeypatch):
    config = stage_config(stage, steps=6)
    whole = train_codec(config, speech, tmp_path / "whole", quiet=True).state_dict()

    class Killed(Exception):
        pass

    original = trainer.save_checkpoint

    def save_then_die(*arguments):
        original(*arguments)
        raise Killed

    monkeypatch.setattr(trainer, "save_checkpoint", save_then_die)
    with pytest.raises(Killed):
        train_codec(config, speech, tmp_path / "broken", quiet=True)
    monkeypatch.setattr(trainer, "save_checkpoint", original)
    resumed = train_codec(config, speech, tmp_path / "broken", quiet=True).state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_joint_trains_all_parts_and_writes_readable_logs(speech, tmp_path):
    config = stage_config("joint", ema=0.9, stft_weight=1.0)
    words = iter(["one two", "one too"])
    model = train_codec(config, speech, tmp_path, quiet=True, asr=lambda wave, rate: next(words))
    assert parts(moved(config, model)) == {"compressor", "decompressor", "decoder"}
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"mse", "mel", "entropy_loss", "generator", "matching", "discriminator", "learning_rate"} <= set(last)
    assert {"validation_mel", "codes_used", "entropy_bits", "normalised_entropy", "validation_loss"} <= set(last)
    assert last["validation_dwer"] == 0.5
    header = (tmp_path / "losses.csv").read_text().splitlines()[0]
    assert header.startswith("step,time,loss,")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert all(tag in written for tag in (b"0/decoded", b"0/original", b"0/spectrogram", b"0/features"))


def test_the_averaged_weights_are_saved(speech, tmp_path):
    plain, averaged = (
        train_codec(stage_config("quantizer", ema=ema), speech, tmp_path / str(ema), quiet=True).state_dict()
        for ema in (0.0, 0.99)
    )
    saved = FocalCodecModel.from_pretrained(tmp_path / "0.99" / "model").state_dict()
    key = "compressor.out_proj.weight"
    assert not torch.equal(saved[key], plain[key])
    assert torch.equal(averaged[key], plain[key])  # the model keeps its own weights
    state = torch.load(tmp_path / "0.99" / "checkpoint.pt", weights_only=True)
    assert torch.equal(state["average"][key], saved[key])


def test_a_codebook_that_collapses_is_reported(speech, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(validation, "_MIN_CODE_SHARE", 1.0)
    train_codec(stage_config("joint", gan=None), speech, tmp_path, quiet=True)
    assert "the codebook is collapsing" in caplog.text
    assert "parts_from" in caplog.text


RUN = """
import os, signal, sys
from pathlib import Path
from accelerate import PartialState
from focallm.tokenizer.training import trainer
from focallm.tokenizer.training.config import read_stages
recipe, folder, kill, *paths = sys.argv[1:]
save = trainer.save_checkpoint
def save_then_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
if kill == "kill":
    trainer.save_checkpoint = save_then_die
(config,) = read_stages(recipe, Path(folder)).values()
trainer.train_codec(config, [Path(p) for p in paths], Path(folder), quiet=True)
if PartialState().is_main_process:  # lines of two processes can be mixed
    print("processes", PartialState().num_processes)
"""


def test_a_killed_run_ends_with_the_same_weights(speech, tmp_path):
    schedule = {"steps": 6, "ema": 0.9, "learning_rate": 1e-6, "schedule": "newbob", "decay": 0.5, "evaluate_every": 1}
    augmentation = {"speed": 0.1, "tilt_db": 3.0, "reverb_probability": 0.5}
    values = settings("joint", **schedule, augmentation=augmentation, crop_seconds=0.2)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    config = load_stage(values, "r.yaml")
    whole = train_codec(config, speech, tmp_path / "whole", quiet=True).state_dict()
    command = [sys.executable, "-c", RUN, str(path), str(tmp_path / "broken"), "kill", *map(str, speech)]
    assert subprocess.run(command, capture_output=True, env=os.environ).returncode == -signal.SIGKILL
    assert not (tmp_path / "broken" / "model").exists()
    resumed = train_codec(config, speech, tmp_path / "broken", quiet=True).state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    a, b = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "broken"))
    assert a["schedule"] == b["schedule"]
    assert a["schedule"]["factor"] < 1
    assert all(torch.equal(a["average"][key], b["average"][key]) for key in a["average"])
    ours, theirs = (state["gan"]["discriminators"] for state in (a, b))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("stage", ["decoder", "quantizer"])
def test_two_processes_train_the_same_weights_as_one(stage, speech, tmp_path):
    config = stage_config(stage, steps=3)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(settings(stage, steps=3)))
    (tmp_path / "run.py").write_text(RUN)
    one = train_codec(config, speech, tmp_path / "one", quiet=True).state_dict()
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu"]  # works without a GPU too
    launcher += ["--num_processes", "2", "--main_process_port", "0"]
    command = [*launcher, tmp_path / "run.py", path, tmp_path / "two", "live", *speech]
    done = subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, text=True)
    assert "processes 2" in done.stdout
    two = FocalCodecModel.from_pretrained(tmp_path / "two" / "model").state_dict()
    torch.manual_seed(0)
    start = build_stage(config).model.state_dict()
    moved, apart = (
        torch.cat([(a[key] - b[key]).flatten() for key in start if a[key].is_floating_point()]).norm()
        for a, b in ((one, start), (two, one))
    )
    assert moved > 0
    assert apart < 0.1 * moved  # AdamW turns the rounding errors of tiny gradients into steps


def test_a_run_of_another_recipe_is_not_continued(speech, tmp_path):
    train_codec(stage_config("quantizer", steps=1), speech, tmp_path, quiet=True)
    with pytest.raises(ValueError, match=r"differs in \['learning_rate'\]"):
        train_codec(stage_config("quantizer", steps=1, learning_rate=1.0), speech, tmp_path, quiet=True)


@pytest.mark.parametrize("stage", ["quantizer", "decoder", "teacher"])
def test_a_run_that_diverges_stops_with_the_reason_and_keeps_its_checkpoint(stage, speech, tmp_path):
    values = {"learning_rate": 1e30, "steps": 9, "checkpoint_every": 1}
    if stage == "teacher":
        values["teacher_model"] = {"dim": 16, "num_layers": 1}
    for _ in range(2):  # continued, it fails in the same way
        with pytest.raises(ValueError, match=r"diverged: .* not finite\. No model.*Lower learning_rate \(1e\+30\)"):
            train_codec(stage_config(stage, **values), speech, tmp_path, quiet=True, texts=["ab"] * 5)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "teacher").exists()
    if (tmp_path / "checkpoint.pt").exists():
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert first_not_finite(state["weights"]) is None


def test_a_checkpoint_that_is_not_finite_is_not_continued(speech, tmp_path):
    config = stage_config("quantizer", steps=1)
    train_codec(config, speech, tmp_path, quiet=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["weights"]["compressor.out_proj.weight"][0] = torch.nan
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "finished.json").unlink()
    with pytest.raises(ValueError, match=r"of a training that diverged: compressor\.out_proj\.weight is not finite"):
        train_codec(config, speech, tmp_path, quiet=True)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged \(.*\): restore a copy, or delete it"):
        train_codec(config, speech, tmp_path, quiet=True)


def test_a_teacher_that_is_not_finite_is_not_used(tmp_path):
    teacher = Teacher.from_config({"dim": 16, "num_layers": 1})
    teacher.norm.weight.data[0] = torch.nan
    teacher.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a teacher whose training diverged, norm\.weight is not finite"):
        Teacher.from_pretrained(tmp_path)


def test_a_codec_that_is_not_finite_is_not_saved(codec, tmp_path):
    model = copy.deepcopy(codec("mel"))
    model.compressor.out_proj.weight.data[1] = torch.inf
    with pytest.raises(ValueError, match=r"not saved, because its weight compressor\.out_proj\.weight holds NaN"):
        AudioTokenizer(model).save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_left_alone_and_a_damaged_result_is_made_again(speech, tmp_path, caplog):
    config = stage_config("quantizer")
    train_codec(config, speech, tmp_path, quiet=True)
    weights, log = tmp_path / "model" / "model.safetensors", tmp_path / "log.jsonl"
    before = (weights.read_bytes(), log.read_bytes(), weights.stat().st_mtime_ns)
    with caplog.at_level("INFO", "focallm"):
        train_codec(config, speech, tmp_path, quiet=True)
    assert "is finished: nothing to train" in caplog.text
    assert (weights.read_bytes(), log.read_bytes(), weights.stat().st_mtime_ns) == before
    weights.write_bytes(before[0][:100])
    train_codec(config, speech, tmp_path, quiet=True)
    assert (weights.read_bytes(), log.read_bytes()) == before[:2]


def test_a_model_is_saved_before_the_plots_that_a_damaged_log_prevents(speech, tmp_path):
    config = stage_config("quantizer", steps=2, evaluate_every=1)
    train_codec(config, speech, tmp_path, quiet=True)
    shutil.rmtree(tmp_path / "model")
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines()
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([lines[0][:9], *lines]))
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1 is not JSON"):
        train_codec(config, speech, tmp_path, quiet=True)
    assert FocalCodecModel.from_pretrained(tmp_path / "model")


def test_a_corpus_of_fewer_files_than_validation_needs_is_refused(speech, tmp_path):
    with pytest.raises(ValueError, match="5 audio files are not more than the 32"):
        train_codec(stage_config("quantizer", validation_files=32), speech, tmp_path, quiet=True)


def test_a_teacher_needs_transcripts(speech, tmp_path):
    with pytest.raises(ValueError, match="0 of the 5 files have one, not more than validation_files"):
        train_codec(stage_config("teacher", teacher_model={"dim": 16}), speech, tmp_path, quiet=True)


def test_the_use_of_codes_is_compared_with_uniform_use():
    even = code_usage(torch.randint(64, (4000,), generator=torch.Generator().manual_seed(0)), 64)
    assert even["codes_used"] == 64
    assert even["normalised_entropy"] > 0.99
    few = code_usage(torch.randint(64, (40,), generator=torch.Generator().manual_seed(0)), 64)
    assert few["code_share"] == pytest.approx(1, abs=0.25)  # not 40 of 64
    assert code_usage(torch.zeros(40, dtype=torch.long), 64)["code_share"] < 0.05


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance(["a", "b"], ["b"]) == 1
