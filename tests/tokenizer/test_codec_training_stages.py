"""Stages of codec training on tiny models: which parts are trained, by which losses, from which weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig as HFWhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

from focallm.tokenizer import FocalCodecModel, write_audio
from focallm.tokenizer.training.build import build_stage
from focallm.tokenizer.training.config import StageConfig, load_stage
from focallm.tokenizer.training.dataset import AudioRates, make_batch
from focallm.tokenizer.training.feature_cache import CachedDataset
from focallm.tokenizer.training.recordings import open_recordings
from focallm.tokenizer.training.stages import encode
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


WHISPER_FIELDS = {
    "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 80,
    "max_source_positions": 1500,
}  # fmt: skip
STACK = {"type": "convnext", "hidden_dims": [16], "factors": [1], "depth": 1}
LISTENING = {
    **FULL,
    "encoder": {"type": "whisper", "num_layers": 2, "dim": 32, "ffn_dim": 32, "num_heads": 2},
    "compressor": {**STACK, "input_dim": 32, "output_dim": 6},
    "decompressor": {**STACK, "input_dim": 6, "output_dim": 32},
}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A folder like that of scripts/whisper_weights.py."""
    torch.manual_seed(2)
    encoder = HFWhisperEncoder(HFWhisperConfig(**WHISPER_FIELDS))
    tensors = {f"model.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    tensors |= {"features.mean": torch.randn(4, 32), "features.std": torch.rand(4, 32) + 0.5}
    folder = tmp_path_factory.mktemp("whisper")
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **WHISPER_FIELDS}))
    return str(folder)


def test_a_codec_on_whisper_is_trained_on_stored_features(speech, whisper, tmp_path):
    cache = {"folder": str(tmp_path / "features"), "copies": 2}
    judge = {"source": whisper, "weight": 2.0, "items": 1}
    values = {"parts_from": {"encoder": whisper}, "cache": cache, "judge": judge}
    config = stage_config("quantizer", LISTENING, **values)
    model = train_codec(config, speech, tmp_path / "q", quiet=True)
    files = set((tmp_path / "features").glob("*.npy"))
    assert len(files) == 2  # the four utterances fill one row, in two copies
    torch.manual_seed(config.seed)
    before = build_stage(config).trained_model.state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert parts(changed) == {"compressor", "decompressor"}
    last = json.loads((tmp_path / "q" / "log.jsonl").read_text().splitlines()[-1])
    assert last["loss"] == pytest.approx(last["mse"] + 0.1 * last["entropy_loss"] + 2 * last["judge"], rel=1e-5)
    assert last["validation_judge"] > 0

    # The next stage has the same encoder, so it computes no features.
    quantizer = str(tmp_path / "q/model")
    sources = dict.fromkeys(("encoder", "compressor", "decompressor"), quantizer)
    config = stage_config("decoder", LISTENING, parts_from=sources, cache=cache, decoder_input="mixed", bit_flips=0.1)
    assert parts(moved(config, train_codec(config, speech, tmp_path / "d", quiet=True))) == {"decoder"}
    assert set((tmp_path / "features").glob("*.npy")) == files


def test_stored_features_are_those_of_the_clips(speech, whisper, tmp_path):
    values = {"parts_from": {"encoder": whisper}, "cache": {"folder": str(tmp_path)}, "clip_seconds": 3.0}
    config = stage_config("quantizer", LISTENING, **values)
    model = build_stage(config).model
    recordings, _ = open_recordings(speech, 16000)
    dataset = CachedDataset(recordings, model, config, AudioRates())
    assert dataset.seconds == 3.76  # five recordings of 0.75 s, in whole frames
    batch = dataset[4]
    assert batch.features.shape == (2, 150, 32)
    assert batch.input_audio.shape == (2, 48000)
    row = torch.from_numpy(dataset.rows[0].samples.astype(np.float32) / 32768)
    with torch.no_grad():
        whole = model.encoder(row[None])[0]
    for features, wave in zip(batch.features, batch.input_audio, strict=True):
        start = (row.unfold(0, 48000, 320) == wave).all(dim=1).nonzero().item()
        torch.testing.assert_close(features, whole[start : start + 150], atol=2e-3, rtol=2e-3)
    again = CachedDataset(recordings, model, config, AudioRates())[4]
    assert torch.equal(again.features, batch.features)
    # Damaged features are computed again.
    (stored,) = tmp_path.glob("*.npy")
    whole_file = stored.read_bytes()
    stored.write_bytes(whole_file[:2000] + bytes(2000) + whole_file[4000:])
    assert torch.equal(CachedDataset(recordings, model, config, AudioRates())[4].features, batch.features)
    assert stored.read_bytes() == whole_file
    halves = [CachedDataset(recordings, model, config, AudioRates(), i, 2)[4].features for i in range(2)]
    assert torch.equal(torch.cat(halves), batch.features)


def test_a_mixed_batch_is_half_decompressed_with_some_bits_flipped(whisper):
    values = {"parts_from": {"encoder": whisper}, "decoder_input": "mixed", "gan": None}
    waves = [np.random.default_rng(i).standard_normal(6400).astype(np.float32) * 0.1 for i in range(2)]
    batch = make_batch(waves, AudioRates())
    stage = build_stage(stage_config("decoder", LISTENING, **values))
    seen = []
    stage.model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features, _ = encode(stage.model, batch)
    decompressed = stage.model.decompressor(stage.model.quantizer.latents_to_codes(stage.model.compressor(features)))
    stage.train()
    stage(batch)
    torch.testing.assert_close(seen.pop(), torch.stack([features[0], decompressed[1]]), atol=1e-5, rtol=0)
    stage.eval()
    stage(batch)
    torch.testing.assert_close(seen.pop(), decompressed, atol=1e-5, rtol=0)
    stage = build_stage(stage_config("decoder", LISTENING, **values, bit_flips=0.2)).train()
    codes = []
    stage.model.decompressor.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    stage(batch)
    flipped = (codes[0] != stage.model.quantizer.latents_to_codes(stage.model.compressor(features))).float().mean()
    assert 0.05 < flipped < 0.4


def test_contradictions_about_whisper_are_refused(whisper):
    with pytest.raises(ValueError, match="judge: Whisper's layers read features of Whisper"):
        build_stage(stage_config("quantizer", judge={"source": whisper}))
    with pytest.raises(ValueError, match="cache holds features of a frozen encoder"):
        stage_config("joint", cache={"folder": "x"})
    with pytest.raises(ValueError, match="cache needs clip_seconds above 0"):
        stage_config("quantizer", cache={"folder": "x"}, clip_seconds=0.0)


def test_unknown_fields_of_a_teacher_are_refused():
    with pytest.raises(ValueError, match="unknown keys"):
        build_stage(stage_config("teacher", teacher_model={"width": 3}))
