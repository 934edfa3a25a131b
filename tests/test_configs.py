"""Every shipped recipe is read, and its model built on the meta device."""

from pathlib import Path

import pytest
import torch

from focallm.lm import training as lm_training
from focallm.tokenizer import FocalCodecConfig, FocalCodecModel
from focallm.tokenizer import training as codec_training

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "codec").glob("*.yaml")), ids=lambda path: path.stem)
def test_codec_recipe(path):
    recipe = codec_training.read_recipe(path)
    with torch.device("meta"):
        model = FocalCodecModel(FocalCodecConfig(**recipe.model))
    assert model.num_parameters() * 2 <= 16e6  # bytes in half precision: what the package may ship


@pytest.mark.parametrize("path", sorted((CONFIGS / "lm").glob("*.yaml")), ids=lambda path: path.stem)
def test_lm_recipe(path, tmp_path):
    from transformers import TrainingArguments

    recipe = lm_training.read_recipe(path)
    TrainingArguments(output_dir=str(tmp_path), **recipe.trainer)


def test_every_config_has_a_test():
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} == {"codec", "lm"}
