"""Stages of codec training on tiny models: which parts are trained, by which losses, from which weights."""

import json

import numpy as np
import pytest
import torch

from focallm.tokenizer import FocalCodecModel, write_audio
from focallm.tokenizer.training.config import StageConfig, load_stage
from focallm.tokenizer.training.dataset import AudioRates, make_batch
from focallm.tokenizer.training.stages import build_stage
from focallm.tokenizer.training.teacher import Teacher
from focallm.tokenizer.training.trainer import train_codec

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


def train_teacher(speech, folder, steps=2, **values) -> Teacher:
    config = stage_config("teacher", teacher_model=TEACHER, steps=steps, **values)
    return train_codec(config, speech, folder, quiet=True, texts=TEXTS)


@pytest.fixture(scope="module")
def full(speech, tmp_path_factory):
    """A full-context codec to distill from."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("full")
    FocalCodecModel(FocalCodecModel.config_class(**FULL)).save_pretrained(folder)
    return str(folder)


def moved(config: StageConfig, after: torch.nn.Module) -> set[str]:
    """Names of the parameters that changed in training."""
    torch.manual_seed(config.seed)
    before = build_stage(config).trained_model.state_dict()
    return {name for name, value in after.state_dict().items() if not torch.equal(before[name], value)}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("stage", "changed", "kept"),
    [
        ("quantizer", ("compressor", "decompressor"), ("decoder",)),
        ("decoder", ("decoder",), ("compressor", "decompressor")),
    ],
)
def test_a_stage_trains_only_its_parts(stage, changed, kept, speech, tmp_path):
    config = stage_config(stage)
    torch.manual_seed(config.seed)
    before = FocalCodecModel(FocalCodecModel.config_class(**MODEL)).state_dict()
    after = train_codec(config, speech, tmp_path, quiet=True).state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == set(changed)
    assert not moved & set(kept)


def test_the_decoder_can_be_trained_on_decompressed_features(speech, tmp_path):
    train_codec(stage_config("quantizer"), speech, tmp_path / "q", quiet=True)
    parts = {"compressor": str(tmp_path / "q/model"), "decompressor": str(tmp_path / "q/model")}
    config = stage_config("decoder", parts_from=parts, decoder_input="decompressed", gan=None)
    model = train_codec(config, speech, tmp_path / "d", quiet=True)
    quantizer = FocalCodecModel.from_pretrained(tmp_path / "q/model").state_dict()
    assert all(torch.equal(quantizer[k], v) for k, v in model.state_dict().items() if k.startswith("compressor"))


def test_a_teacher_is_trained_on_transcripts_and_serves_as_a_loss_of_the_quantizer(speech, tmp_path):
    teacher = train_teacher(speech, tmp_path / "t", steps=30, learning_rate=3e-3, evaluate_every=10)
    log = [json.loads(line) for line in (tmp_path / "t" / "log.jsonl").open()]
    assert log[-1]["validation_letter_errors"] <= 2
    assert log[-1]["ctc"] < log[0]["ctc"]
    assert {path.name for path in (tmp_path / "t" / "teacher").iterdir()} == {"teacher.json", "teacher.safetensors"}
    again = Teacher.from_pretrained(tmp_path / "t" / "teacher")
    assert torch.equal(again.in_proj.weight, teacher.in_proj.weight)
    assert not again.training

    loss = {"folder": str(tmp_path / "t" / "teacher"), "hidden_weight": 1.0, "posterior_weight": 0.1}
    config = stage_config("quantizer", teacher=loss)
    model = train_codec(config, speech, tmp_path / "q", quiet=True)
    assert parts(moved(config, model)) == {"compressor", "decompressor"}
    last = json.loads((tmp_path / "q" / "log.jsonl").read_text().splitlines()[-1])
    weighted = last["mse"] + 0.1 * last["entropy_loss"] + last["teacher"] + 0.1 * last["posterior"]
    assert last["loss"] == pytest.approx(weighted, rel=1e-5)


def test_a_teacher_reads_the_waveform_if_there_is_one(speech, tmp_path):
    train_teacher(speech, tmp_path / "t")
    loss = {"folder": str(tmp_path / "t/teacher"), "hidden_weight": 1.0}
    config = stage_config("decoder", FULL, teacher=loss, gan=None)
    assert parts(moved(config, train_codec(config, speech, tmp_path / "d", quiet=True))) == {"decoder"}
    with pytest.raises(ValueError, match=r"a teacher reads the features, so model\.encoder must give"):
        build_stage(stage_config("quantizer", FULL, teacher=loss))
    with pytest.raises(ValueError, match=r"teacher reads 16000 Hz, but .* writes 24000 Hz"):
        build_stage(stage_config("joint", CAUSAL, teacher=loss))


def test_the_distance_of_a_teacher_ignores_padding():
    torch.manual_seed(0)
    teacher = Teacher.from_config(TEACHER).eval()
    x = torch.randn(2, 30, 20)
    y, lengths = x.clone(), torch.tensor([30, 12])
    y[1, 12:] = 9
    assert all(value.abs() < 1e-6 for value in teacher.distance(y, x, lengths))
    y[1, :12] = 9
    assert all(value > 1e-3 for value in teacher.distance(y, x, lengths))


def test_the_five_causal_stages(speech, full, tmp_path):
    """Each stage starts with the weights of those before it."""
    encoder = {"encoder": full}
    no_refiner = {**CAUSAL, "decompressor": {**CAUSAL["decompressor"], "lookahead_size": 0}}
    runs = {
        "decoder": stage_config(
            "decoder",
            CAUSAL,
            target=full,
            decoder_input="target",
            clip_seconds=0.5,
            crop_seconds=0.3,
            schedule="exponential",
        ),
        "position": stage_config("position", CAUSAL, target=full, parts_from=encoder),
        "encoder": stage_config(
            "encoder", CAUSAL, target=full, parts_from={"encoder": str(tmp_path / "position/model")}
        ),
        "quantizer": stage_config("quantizer", no_refiner, parts_from={"encoder": str(tmp_path / "encoder/model")}),
        "all": stage_config(
            "quantizer",
            CAUSAL,
            target=full,
            trainable_parts=("encoder", "compressor", "decompressor"),
            parts_from={
                "encoder": str(tmp_path / "encoder/model"),
                "compressor": str(tmp_path / "quantizer/model"),
                "decompressor": str(tmp_path / "quantizer/model"),
                "decoder": str(tmp_path / "decoder/model"),
            },
        ),
    }
    changed = {}
    for name, config in runs.items():
        changed[name] = moved(config, train_codec(config, speech, tmp_path / name, quiet=True))
    position = "encoder.encoder.positional_embedding.conv."
    assert parts(changed["decoder"]) == {"decoder"}
    assert changed["position"] == {position + "weight", position + "bias"}
    assert parts(changed["encoder"]) == {"encoder"}
    assert not any("positional" in name or "relative_embedding" in name for name in changed["encoder"])
    assert parts(changed["quantizer"]) == {"compressor", "decompressor"}
    assert parts(changed["all"]) == {"encoder", "compressor", "decompressor"}
    assert any("refiner" in name for name in changed["all"])
    codec = FocalCodecModel.from_pretrained(tmp_path / "all/model")
    stream = codec.stream()
    assert stream.encode(torch.zeros(1, stream.chunk_length)).shape == (1, 1, 4)


def test_distillation_needs_matching_encoders(full):
    with pytest.raises(ValueError, match=r"target gives features of \(dim, hop_length\) = \(32, 320\), but model"):
        build_stage(stage_config("quantizer", target=full))
    narrow = {**CAUSAL, "encoder": {**CAUSAL["encoder"], "num_layers": 1}}
    with pytest.raises(ValueError, match=r"found \(32, 1\) and \(32, 2\)"):
        build_stage(stage_config("encoder", narrow, target=full))


def test_whole_utterances_are_masked(speech):
    """The losses of a batch are those of its real frames."""
    stage = build_stage(stage_config("quantizer", FULL, clip_seconds=0.0)).eval()
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (9600, 6400)]
    together = stage(make_batch(waves, AudioRates())).losses["mse"]
    alone = [stage(make_batch([wave], AudioRates())).losses["mse"] for wave in waves]
    frames = torch.tensor([29.0, 19.0])
    torch.testing.assert_close(together, (torch.stack(alone) * frames).sum() / frames.sum())


def test_losses_are_finite_in_bfloat16(speech):
    stage = build_stage(stage_config("joint", gan=None, stft_weight=1.0))
    batch = make_batch([np.random.default_rng(0).standard_normal(6400).astype(np.float32) * 0.1], AudioRates())
    with torch.autocast("cpu", torch.bfloat16):
        losses = stage(batch).losses
    plain = stage(batch).losses
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.model.parameters() if p.grad is not None)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert losses["mel"].item() == pytest.approx(plain["mel"].item(), rel=0.05)


def test_a_discriminator_of_features_is_trained_and_trains_the_decompressor(speech, tmp_path):
    config = stage_config("quantizer", trainable_parts=("decompressor",), gan={"width": 0.1}, steps=3)
    torch.manual_seed(0)
    before = build_stage(config).model.state_dict()
    after = train_codec(config, speech, tmp_path, quiet=True).state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decompressor"}
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"generator", "matching", "discriminator", "mse"} <= last.keys()


def test_unknown_fields_of_a_teacher_are_refused():
    with pytest.raises(ValueError, match="unknown keys"):
        build_stage(stage_config("teacher", teacher_model={"width": 3}))
