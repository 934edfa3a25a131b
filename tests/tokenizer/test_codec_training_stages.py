"""Whole runs of the further stages, on tiny models: joint, teacher, distillation; killed and shared runs."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator

from focallm.tokenizer import FocalCodecModel, write_audio
from focallm.tokenizer.training import CodecTrainingConfig, read_recipe, train_codec
from focallm.tokenizer.training.adversary import Adversary
from focallm.tokenizer.training.build import build_stage
from focallm.tokenizer.training.dataset import Rates, make_batch
from focallm.tokenizer.training.teacher import Teacher

FOCAL = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}
MODEL = {
    "encoder": {"type": "mel", "dim": 20},
    "compressor": {"input_dim": 20, "output_dim": 6, **FOCAL},
    "quantizer": {"codebook_size": 64},
    "decompressor": {"input_dim": 6, "output_dim": 20, **FOCAL},
    "decoder": {"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
}
WAVLM = {
    "type": "wavlm",
    "hidden_dims": [8] * 7,
    "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
    "strides": [5, 2, 2, 2, 2, 2, 2],
    "num_layers": 2,
    "dim": 32,
    "ffn_dim": 16,
    "num_heads": 2,
}
FULL = {
    "encoder": WAVLM,
    "compressor": {"input_dim": 32, "output_dim": 6, **FOCAL},
    "quantizer": {"codebook_size": 64},
    "decompressor": {"input_dim": 6, "output_dim": 32, **FOCAL},
    "decoder": {"type": "vocos", "input_dim": 32, "num_layers": 1, "dim": 16, "ffn_dim": 32},
}
CAUSAL = {
    "encoder": {**WAVLM, "causal": True, "window_size": 16},
    "compressor": {"input_dim": 32, "output_dim": 6, **FOCAL, "causal": True, "window_size": 16},
    "quantizer": {"codebook_size": 64},
    "decompressor": {
        "input_dim": 6, "output_dim": 32, **FOCAL, "causal": True, "window_size": 16, "lookahead_size": 3,
    },
    "decoder": {"type": "wavenext", "input_dim": 32, "num_layers": 1, "dim": 16, "ffn_dim": 32},
}  # fmt: skip
TEACHER = {"bands": 20, "dim": 16, "num_layers": 2, "kernel_size": 5}
TEXTS = ["one two", "three", "", "four", "five"]


def recipe(stage, model=MODEL, **values) -> CodecTrainingConfig:
    defaults = {"steps": 2, "batch_size": 2, "seconds": 0.4, "warmup": 1, "validation_files": 1, "checkpoint_every": 3}
    if stage in ("decoder", "joint"):
        defaults |= {"discriminator_width": 0.01, "discriminator_scales": 1}
    return CodecTrainingConfig(stage, model, **{**defaults, **values})


def learn_teacher(speech, folder, steps=2, **values) -> Teacher:
    r = recipe("teacher", {}, seconds=0.0, teacher_model=TEACHER, steps=steps, **values)
    return train_codec(r, speech, folder, quiet=True, texts=TEXTS)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Five files of a gliding tone with noise."""
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for i in range(5):
        t = np.arange(12000) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (150 + 50 * i + 100 * t) * t) + 0.02 * rng.standard_normal(len(t))
        write_audio(folder / f"{i}.wav", wave.astype(np.float32), 16000)
    return sorted(folder.glob("*.wav"))


@pytest.fixture(scope="module")
def full(speech, tmp_path_factory):
    """A full-context codec to distil from."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("full")
    FocalCodecModel(FocalCodecModel.config_class(**FULL)).save_pretrained(folder)
    return str(folder)


def moved(r: CodecTrainingConfig, after: torch.nn.Module) -> set[str]:
    """Parameters that are not those of the beginning."""
    torch.manual_seed(r.seed)
    before = build_stage(r).learning().state_dict()
    return {name for name, value in after.state_dict().items() if not torch.equal(before[name], value)}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_joint_trains_all_parts_and_leaves_what_can_be_read(speech, tmp_path):
    r = recipe("joint", ema=0.9, stft_weight=1.0)
    words = iter(["one two", "one too"])
    model = train_codec(r, speech, tmp_path, quiet=True, recognise=lambda wave, rate: next(words))
    assert parts(moved(r, model)) == {"compressor", "decompressor", "decoder"}
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"mse", "mel", "entropy_loss", "generator", "matching", "discriminator", "learning_rate"} <= set(last)
    assert {"validation_mel", "codes_used", "entropy_bits", "normalised_entropy", "validation_loss"} <= set(last)
    assert last["validation_dwer"] == 0.5
    header = (tmp_path / "losses.csv").read_text().splitlines()[0]
    assert header.startswith("step,time,loss,")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert all(tag in written for tag in (b"0/decoded", b"0/original", b"0/spectrogram", b"0/features"))


def test_the_average_is_what_is_saved(speech, tmp_path):
    plain, averaged = (
        train_codec(recipe("quantizer", ema=ema), speech, tmp_path / str(ema), quiet=True).state_dict()
        for ema in (0.0, 0.99)
    )
    saved = FocalCodecModel.from_pretrained(tmp_path / "0.99" / "model").state_dict()
    key = "compressor.out_proj.weight"
    assert not torch.equal(saved[key], plain[key])
    assert torch.equal(averaged[key], plain[key])  # the model goes on with its own weights
    state = torch.load(tmp_path / "0.99" / "checkpoint.pt", weights_only=True)
    assert torch.equal(state["average"][key], saved[key])


def test_a_codebook_that_collapses_is_reported(speech, tmp_path, caplog):
    train_codec(recipe("joint", adversarial_weight=0.0, usage_floor=1.0), speech, tmp_path, quiet=True)
    assert "the codebook is collapsing" in caplog.text
    assert "parts_from" in caplog.text


def test_a_teacher_learns_from_the_files_with_a_text_and_judges_the_quantizer(speech, tmp_path):
    teacher = learn_teacher(speech, tmp_path / "t", steps=30, learning_rate=3e-3, evaluate_every=10)
    log = [json.loads(line) for line in (tmp_path / "t" / "log.jsonl").open()]
    assert log[-1]["validation_letter_errors"] <= 2
    assert log[-1]["ctc"] < log[0]["ctc"]
    assert {path.name for path in (tmp_path / "t" / "teacher").iterdir()} == {"teacher.json", "teacher.safetensors"}
    again = Teacher.from_pretrained(tmp_path / "t" / "teacher")
    assert torch.equal(again.in_proj.weight, teacher.in_proj.weight)
    assert not again.training

    r = recipe("quantizer", teacher=str(tmp_path / "t" / "teacher"), teacher_weight=1.0, posterior_weight=0.1)
    model = train_codec(r, speech, tmp_path / "q", quiet=True)
    assert parts(moved(r, model)) == {"compressor", "decompressor"}
    last = json.loads((tmp_path / "q" / "log.jsonl").read_text().splitlines()[-1])
    weighted = last["mse"] + 0.1 * last["entropy_loss"] + last["teacher"] + 0.1 * last["posterior"]
    assert last["loss"] == pytest.approx(weighted, rel=1e-5)


def test_a_teacher_hears_the_waveform_where_there_is_one(speech, tmp_path):
    learn_teacher(speech, tmp_path / "t")
    r = recipe("decoder", FULL, teacher=str(tmp_path / "t/teacher"), teacher_weight=1.0, adversarial_weight=0.0)
    assert parts(moved(r, train_codec(r, speech, tmp_path / "d", quiet=True))) == {"decoder"}
    with pytest.raises(ValueError, match=r"a teacher judges the features, so model\.encoder must be"):
        build_stage(recipe("quantizer", FULL, teacher=str(tmp_path / "t/teacher"), teacher_weight=1.0))
    with pytest.raises(ValueError, match=r"teacher hears 16000 Hz, but .* speaks 24000 Hz"):
        build_stage(recipe("joint", CAUSAL, teacher=str(tmp_path / "t/teacher"), teacher_weight=1.0))


def test_the_teacher_finds_no_distance_between_equals_whatever_stands_in_the_padding():
    torch.manual_seed(0)
    teacher = Teacher.from_config(TEACHER).eval()
    x = torch.randn(2, 30, 20)
    y, lengths = x.clone(), torch.tensor([30, 12])
    y[1, 12:] = 9
    assert all(value.abs() < 1e-6 for value in teacher.distance(y, x, lengths))
    y[1, :12] = 9
    assert all(value > 1e-3 for value in teacher.distance(y, x, lengths))


def test_the_five_causal_stages(speech, full, tmp_path):
    """Each begins where the one before it ended (spec B)."""
    encoder = {"encoder": full}
    no_refiner = {**CAUSAL, "decompressor": {**CAUSAL["decompressor"], "lookahead_size": 0}}
    runs = {
        "decoder": recipe(
            "decoder",
            CAUSAL,
            target=full,
            decoder_input="target",
            seconds=0.5,
            crop_seconds=0.3,
            schedule="exponential",
        ),
        "position": recipe("position", CAUSAL, target=full, parts_from=encoder),
        "encoder": recipe("encoder", CAUSAL, target=full, parts_from={"encoder": str(tmp_path / "position/model")}),
        "quantizer": recipe("quantizer", no_refiner, parts_from={"encoder": str(tmp_path / "encoder/model")}),
        "all": recipe(
            "quantizer",
            CAUSAL,
            target=full,
            learns=("encoder", "compressor", "decompressor"),
            parts_from={
                "encoder": str(tmp_path / "encoder/model"),
                "compressor": str(tmp_path / "quantizer/model"),
                "decompressor": str(tmp_path / "quantizer/model"),
                "decoder": str(tmp_path / "decoder/model"),
            },
        ),
    }
    learnt = {}
    for name, r in runs.items():
        learnt[name] = moved(r, train_codec(r, speech, tmp_path / name, quiet=True))
    position = "encoder.encoder.positional_embedding.conv."
    assert parts(learnt["decoder"]) == {"decoder"}
    assert learnt["position"] == {position + "weight", position + "bias"}
    assert parts(learnt["encoder"]) == {"encoder"}
    assert not any("positional" in name or "relative_embedding" in name for name in learnt["encoder"])
    assert parts(learnt["quantizer"]) == {"compressor", "decompressor"}
    assert parts(learnt["all"]) == {"encoder", "compressor", "decompressor"}
    assert any("refiner" in name for name in learnt["all"])
    codec = FocalCodecModel.from_pretrained(tmp_path / "all/model")
    stream = codec.stream()
    assert stream.encode(torch.zeros(1, stream.chunk_length)).shape == (1, 1, 4)


def test_distillation_needs_encoders_that_fit(full):
    with pytest.raises(ValueError, match=r"target gives features of \(dim, hop_length\) = \(32, 320\), but model"):
        build_stage(recipe("quantizer", target=full))
    narrow = {**CAUSAL, "encoder": {**CAUSAL["encoder"], "num_layers": 1}}
    with pytest.raises(ValueError, match=r"found \(32, 1\) and \(32, 2\)"):
        build_stage(recipe("encoder", narrow, target=full))


def test_whole_utterances_are_masked(speech):
    """Whatever stands in the padding of a batch, the losses are those of the real frames."""
    stage = build_stage(recipe("quantizer", FULL, seconds=0.0)).eval()
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (9600, 6400)]
    together = stage(make_batch(waves, Rates())).losses["mse"]
    alone = [stage(make_batch([wave], Rates())).losses["mse"] for wave in waves]
    frames = torch.tensor([29.0, 19.0])
    torch.testing.assert_close(together, (torch.stack(alone) * frames).sum() / frames.sum())


def test_losses_are_finite_in_bfloat16(speech):
    stage = build_stage(recipe("joint", adversarial_weight=0.0, stft_weight=1.0))
    batch = make_batch([np.random.default_rng(0).standard_normal(6400).astype(np.float32) * 0.1], Rates())
    with torch.autocast("cpu", torch.bfloat16):
        losses = stage(batch).losses
    plain = stage(batch).losses
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.model.parameters() if p.grad is not None)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert losses["mel"].item() == pytest.approx(plain["mel"].item(), rel=0.05)


RUN = """
import json, os, signal, sys
from pathlib import Path
from accelerate import PartialState
from focallm.tokenizer.training import read_recipe, run, train_codec
recipe, folder, kill, *paths = sys.argv[1:]
save = run.save_checkpoint
def save_then_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
if kill == "kill":
    run.save_checkpoint = save_then_die
train_codec(read_recipe(recipe), [Path(p) for p in paths], Path(folder), quiet=True)
print("processes", PartialState().num_processes)
"""


def write_recipe(path, stage, **values):
    entries = {**vars(recipe(stage, **values)), "betas": [0.8, 0.99], "learns": []}
    path.write_text(yaml.safe_dump({k: v for k, v in entries.items() if v is not None}))
    return path


def test_a_killed_run_ends_with_the_same_weights(speech, tmp_path):
    schedule = {"steps": 6, "ema": 0.9, "learning_rate": 1e-6, "schedule": "newbob", "decay": 0.5, "evaluate_every": 1}
    augmentation = {"speed": 0.1, "tilt_db": 3.0, "rooms": 0.5, "crop_seconds": 0.2}
    path = write_recipe(tmp_path / "r.yaml", "joint", **schedule, **augmentation)
    r = read_recipe(path)
    whole = train_codec(r, speech, tmp_path / "whole", quiet=True).state_dict()
    command = [sys.executable, "-c", RUN, str(path), str(tmp_path / "broken"), "kill", *map(str, speech)]
    assert subprocess.run(command, capture_output=True, env=os.environ).returncode == -signal.SIGKILL
    assert not (tmp_path / "broken" / "model").exists()
    resumed = train_codec(r, speech, tmp_path / "broken", quiet=True).state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    a, b = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "broken"))
    assert a["schedule"] == b["schedule"]
    assert a["schedule"]["slowed"] < 1
    assert all(torch.equal(a["average"][key], b["average"][key]) for key in a["average"])
    ours, theirs = (state["adversary"]["discriminators"] for state in (a, b))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_discriminator_of_features_learns_and_is_answered(speech, tmp_path):
    r = recipe("quantizer", learns=("decompressor",), adversarial_features=True, discriminator_width=0.1, steps=3)
    torch.manual_seed(0)
    before = build_stage(r).model.state_dict()
    after = train_codec(r, speech, tmp_path, quiet=True).state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decompressor"}
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"generator", "matching", "discriminator", "mse"} <= last.keys()


def test_discriminators_may_learn_faster_than_what_they_judge():
    adversary = Adversary(recipe("decoder", discriminator_rate=3.0), Accelerator(cpu=True))
    adversary.discriminator_step(torch.randn(2, 2000), torch.randn(2, 2000), 1e-3)
    assert adversary.optimizer.param_groups[0]["lr"] == pytest.approx(3e-3)


@pytest.mark.parametrize("stage", ["decoder", "quantizer"])
def test_two_processes_learn_what_one_does(stage, speech, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", stage, steps=3)
    (tmp_path / "run.py").write_text(RUN)
    one = train_codec(read_recipe(path), speech, tmp_path / "one", quiet=True).state_dict()
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu"]  # and no GPU
    launcher += ["--num_processes", "2", "--main_process_port", "0"]
    command = [*launcher, tmp_path / "run.py", path, tmp_path / "two", "live", *speech]
    done = subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, text=True)
    assert "processes 2" in done.stdout
    two = FocalCodecModel.from_pretrained(tmp_path / "two" / "model").state_dict()
    torch.manual_seed(0)
    start = build_stage(read_recipe(path)).model.state_dict()
    moved, apart = (
        torch.cat([(a[key] - b[key]).flatten() for key in start if a[key].is_floating_point()]).norm()
        for a, b in ((one, start), (two, one))
    )
    assert moved > 0
    assert apart < 0.1 * moved  # where a gradient is next to nothing, AdamW turns rounding into a step


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": "quantizer", "teacher_weight": 1.0}, "teacher_weight and posterior_weight need teacher"),
        ({"stage": "quantizer", "teacher": "x"}, "teacher is given, but teacher_weight and posterior_weight are 0"),
        ({"stage": "decoder", "decoder_input": "target"}, 'decoder_input "target" needs target'),
        ({"stage": "encoder"}, 'stage "encoder" needs target'),
        ({"stage": "decoder", "adversarial_features": True}, 'adversarial_features needs stage "quantizer"'),
        ({"stage": "decoder", "adversary_from": "x", "adversarial_weight": 0.0}, "adversary_from names discriminators"),
        ({"stage": "teacher", "seconds": 0.0, "model": MODEL}, "takes teacher_model, not model"),
        ({"stage": "teacher"}, "seconds must be 0"),
        ({"stage": "quantizer", "teacher_model": TEACHER}, 'teacher_model needs stage "teacher"'),
        ({"stage": "decoder", "seconds": 1.0, "crop_seconds": 2.0}, r"crop_seconds \(2.0\) is more than seconds \(1.0"),
        ({"stage": "decoder", "seconds": 0.0}, r"\(seconds: 0\) needs crop_seconds"),
        ({"stage": "quantizer", "crop_seconds": 1.0}, "crop_seconds is what a decoder is given"),
        ({"stage": "joint", "schedule": "linear"}, "schedule must be one of"),
        ({"stage": "joint", "learns": ("vocoder",)}, "learns knows"),
        ({"stage": "joint", "ema": 1.0}, r"ema must be in \[0, 1\)"),
    ],
)
def test_contradictions_name_both_fields(values, message):
    with pytest.raises(ValueError, match=message):
        CodecTrainingConfig(**values)


def test_values_of_another_type_are_named(tmp_path):
    (tmp_path / "r.yaml").write_text("stage: decoder\nlearning_rate: fast\nsteps: many\n")
    with pytest.raises(ValueError, match=r"steps must be int, found 'many'; learning_rate must be float, found 'fast'"):
        read_recipe(tmp_path / "r.yaml")


def test_a_teacher_needs_texts(speech, tmp_path):
    with pytest.raises(ValueError, match="0 of the 5 files have one, not more than validation_files"):
        train_codec(recipe("teacher", {}, seconds=0.0, teacher_model=TEACHER), speech, tmp_path, quiet=True)
    with pytest.raises(ValueError, match="unknown keys"):
        build_stage(recipe("teacher", {}, seconds=0.0, teacher_model={"width": 3}))
