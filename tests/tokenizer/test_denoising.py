"""The encoder of type "denoising": what it hears depends on the signal only, and training removes noise from it."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig as HFWhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel, read_audio, write_audio
from focallm.tokenizer.training.config import load_stage
from focallm.tokenizer.training.trainer import train_codec

WHISPER = {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 64, "num_mel_bins": 80}
PARTS = ("encoder", "compressor", "quantizer", "decompressor", "decoder")


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    encoder = HFWhisperEncoder(HFWhisperConfig(**WHISPER))
    tensors = {f"model.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_file({**tensors, "features.mean": torch.zeros(2, 64), "features.std": torch.ones(2, 64)},
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **WHISPER}))
    return folder


def test_an_item_does_not_depend_on_the_others(denoising_codec):
    model = denoising_codec
    waveform = 0.1 * torch.randn(3, 20000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([20000, 11111, 7])
    mask = torch.arange(20000) < lengths[:, None]
    together = model.extract_features(waveform, mask)
    for i, size in enumerate(lengths.tolist()):
        alone = model.extract_features(waveform[i : i + 1, :size])[0]
        assert len(alone) == -(-size // 320)
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-5, rtol=0)
        assert not together[i, len(alone) :].any()


def test_an_open_gate_lets_the_noisy_frames_pass(denoising_codec):
    model = copy.deepcopy(denoising_codec)
    gate = model.encoder.conformer.out_proj
    with torch.no_grad():
        gate.weight[80:] = 0
        gate.bias[80:] = 50
    waveform = 0.1 * torch.randn(1, 16000)
    torch.testing.assert_close(model.extract_features(waveform), model.encoder.mel(waveform))


def test_training_learns_the_noise_away_and_leaves_whisper_alone(tmp_path, whisper_folder, denoising_codec):
    sizes = {part: getattr(denoising_codec.config, part) for part in PARTS}
    target = FocalCodecModel(FocalCodecConfig(**{**sizes, "encoder": {"type": "mel"}}))
    target.save_pretrained(tmp_path / "target")
    rng = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    write_audio(tmp_path / "noise" / "a.wav", (0.3 * rng.standard_normal(32000)).astype(np.float32), 16000)
    paths = []
    for i in range(6):
        time = np.arange(16000) / 16000
        tone = 0.2 * np.sin(2 * np.pi * 200 * (i + 1) * time) * (np.sin(2 * np.pi * 3 * time) > 0)
        paths.append(tmp_path / f"{i}.wav")
        write_audio(paths[-1], tone.astype(np.float32), 16000)
    values = {
        "stage": "denoising", "target": str(tmp_path / "target"), "parts_from": {"encoder": str(whisper_folder)},
        "model": sizes, "steps": 40, "batch_size": 4, "clip_seconds": 0.5, "warmup_steps": 5, "validation_files": 2,
        "evaluate_every": 20, "checkpoint_every": 20, "learning_rate": 0.01,
        "augmentation": {"noise": str(tmp_path / "noise"), "noise_probability": 1.0, "babble": 0.2, "colored": 0.3},
    }  # fmt: skip
    config = load_stage(values, "recipe")
    model = train_codec(config, paths, tmp_path / "run", quiet=True, report_to="none")
    # The estimate is nearer to the clean frames than the noisy ones are, for a recording that is not in the corpus.
    clean, _ = read_audio(paths[-1], 16000)
    noisy = clean + 0.1 * rng.standard_normal(len(clean)).astype(np.float32)
    clean_frames = target.extract_features(torch.from_numpy(clean)[None])
    noisy_frames = target.extract_features(torch.from_numpy(noisy)[None])
    estimate = model.eval().extract_features(torch.from_numpy(noisy)[None])
    assert (estimate - clean_frames).abs().mean() < 0.7 * (noisy_frames - clean_frames).abs().mean()
    fresh = FocalCodecModel(FocalCodecConfig(**sizes))
    fresh.encoder.load_whisper(whisper_folder)
    for name, tensor in fresh.encoder.whisper.state_dict().items():
        torch.testing.assert_close(model.encoder.whisper.state_dict()[name], tensor)
    # The saved codec is complete, and loads without Whisper's folder.
    loaded = FocalCodecModel.from_pretrained(tmp_path / "run" / "model")
    waveform = 0.1 * torch.randn(1, 8000)
    torch.testing.assert_close(loaded.extract_features(waveform), model.eval().extract_features(waveform))


def test_a_recipe_with_another_encoder_is_refused(tmp_path, denoising_codec):
    sizes = {part: getattr(denoising_codec.config, part) for part in PARTS}
    FocalCodecModel(FocalCodecConfig(**{**sizes, "encoder": {"type": "mel"}})).save_pretrained(tmp_path / "target")
    model = {**sizes, "encoder": {"type": "mel"}}
    config = load_stage({"stage": "denoising", "target": str(tmp_path / "target"), "model": model}, "recipe")
    with pytest.raises(ValueError, match="trains an encoder of type 'denoising', found type 'mel'"):
        train_codec(config, [], tmp_path / "run", quiet=True, report_to="none")
