import dataclasses
import json

import numpy as np
import pytest
import torch

from focallm.tokenizer import FocalCodecModel, write_audio
from focallm.tokenizer.training import CodecTrainingConfig, losses, read_recipe, train_codec
from focallm.tokenizer.training import run as training_run
from focallm.tokenizer.training.discriminators import Discriminators

FOCAL = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}
MODEL = {
    "encoder": {"type": "mel", "dim": 20},
    "compressor": {"input_dim": 20, "output_dim": 6, **FOCAL},
    "quantizer": {"codebook_size": 64},
    "decompressor": {"input_dim": 6, "output_dim": 20, **FOCAL},
    "decoder": {"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
}


def recipe(stage, **values) -> CodecTrainingConfig:
    defaults = {
        "steps": 6,
        "batch_size": 2,
        "seconds": 0.4,
        "warmup": 1,
        "validation_files": 1,
        "discriminator_width": 0.01,
    }
    return CodecTrainingConfig(stage, MODEL, **{**defaults, "checkpoint_every": 3, "evaluate_every": 6, **values})


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Four files of a gliding tone with noise."""
    folder, rng = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for i in range(4):
        t = np.arange(12000) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (150 + 50 * i + 100 * t) * t) + 0.02 * rng.standard_normal(len(t))
        write_audio(folder / f"{i}.wav", wave.astype(np.float32), 16000)
    return sorted(folder.glob("*.wav"))


def test_losses_vanish_for_equal_signals_only():
    a, b = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0))
    assert losses.mel_loss(a, a, 16000, 320) == losses.stft_loss(a, a) == 0
    assert losses.mel_loss(a, b, 16000, 320) > 0.1
    assert losses.stft_loss(a, b) > 0.1


def test_hinge_losses_are_zero_beyond_the_margin():
    real, fake = [torch.full((2, 3), 1.5)], [torch.full((2, 3), -1.5)]
    assert losses.discriminator_loss(real, fake) == 0
    assert losses.generator_loss(fake) == 1.5


def test_full_width_discriminators_have_the_published_size():
    with torch.device("meta"):
        millions = sum(p.numel() for p in Discriminators().parameters()) / 1e6
    assert millions == pytest.approx(70.7, rel=0.01)  # HiFi-GAN: 41.1 M multi-period and 29.6 M multi-scale


def test_discriminators_take_any_length():
    scores, activations = Discriminators(0.05, scales=1)(torch.randn(2, 1001))
    assert len(scores) == len(activations) == 6


@pytest.mark.parametrize(
    ("stage", "changed", "kept"),
    [
        ("quantizer", ("compressor", "decompressor"), ("decoder",)),
        ("decoder", ("decoder",), ("compressor", "decompressor")),
    ],
)
def test_a_stage_trains_its_parts_and_no_other(stage, changed, kept, speech, tmp_path):
    r = recipe(stage, discriminator_scales=1)
    torch.manual_seed(r.seed)
    before = FocalCodecModel(FocalCodecModel.config_class(**MODEL)).state_dict()
    after = train_codec(r, speech, tmp_path, quiet=True).state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == set(changed)
    assert not moved & set(kept)


def test_the_quantizer_stage_learns(speech, tmp_path):
    train_codec(recipe("quantizer", steps=40, evaluate_every=2, learning_rate=3e-3), speech, tmp_path, quiet=True)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    errors = [entry["validation_mse"] for entry in log if "validation_mse" in entry]
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("stage", ["quantizer", "decoder"])
def test_a_stopped_run_ends_where_an_unbroken_one_does(stage, speech, tmp_path, monkeypatch):
    r = recipe(stage, discriminator_scales=1)
    whole = train_codec(r, speech, tmp_path / "whole", quiet=True).state_dict()

    class Killed(Exception):
        pass

    original = training_run.save_checkpoint

    def save_then_die(*arguments):
        original(*arguments)
        raise Killed

    monkeypatch.setattr(training_run, "save_checkpoint", save_then_die)
    with pytest.raises(Killed):
        train_codec(r, speech, tmp_path / "broken", quiet=True)
    monkeypatch.setattr(training_run, "save_checkpoint", original)
    resumed = train_codec(r, speech, tmp_path / "broken", quiet=True).state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_decoder_can_learn_on_what_the_quantizer_leaves(speech, tmp_path):
    train_codec(recipe("quantizer"), speech, tmp_path / "q", quiet=True)
    parts = {"compressor": str(tmp_path / "q/model"), "decompressor": str(tmp_path / "q/model")}
    r = recipe("decoder", parts_from=parts, decoder_input="decompressed", adversarial_weight=0.0)
    model = train_codec(r, speech, tmp_path / "d", quiet=True)
    quantizer = FocalCodecModel.from_pretrained(tmp_path / "q/model").state_dict()
    assert all(torch.equal(quantizer[k], v) for k, v in model.state_dict().items() if k.startswith("compressor"))


def test_a_run_of_another_recipe_is_not_continued(speech, tmp_path):
    train_codec(recipe("quantizer", steps=1), speech, tmp_path, quiet=True)
    with pytest.raises(ValueError, match=r"differs in \['learning_rate'\]"):
        train_codec(recipe("quantizer", steps=1, learning_rate=1.0), speech, tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": "vocoder"}, "stage must be one of"),
        ({"stage": "decoder", "decoder_input": "mel"}, "decoder_input must be"),
        ({"stage": "quantizer", "decoder_input": "decompressed"}, 'found stage "quantizer"'),
        ({"stage": "decoder", "parts_from": {"vocoder": "x"}}, "parts_from knows"),
        ({"stage": "decoder", "model": {"quantizer": {"codebook_size": 4}}}, "compressor.output_dim is 13"),
    ],
)
def test_contradictions_are_refused_before_any_work(values, message):
    with pytest.raises(ValueError, match=message):
        CodecTrainingConfig(**values)


def test_an_unknown_key_is_named(tmp_path):
    (tmp_path / "r.yaml").write_text("stage: decoder\nlearning_rat: 1\n")
    with pytest.raises(ValueError, match=r"unknown keys \['learning_rat'\]"):
        read_recipe(tmp_path / "r.yaml")


def test_a_corpus_of_fewer_files_than_validation_needs_is_refused(speech, tmp_path):
    with pytest.raises(ValueError, match="4 audio files are not more than the 32"):
        train_codec(dataclasses.replace(recipe("quantizer"), validation_files=32), speech, tmp_path, quiet=True)
