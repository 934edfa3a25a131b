"""What the tests share: the golden fixtures, and tiny codecs whose weights are seeded."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from focallm.tokenizer.focalcodec import FocalCodecConfig, FocalCodecModel

settings.register_profile("repeatable", derandomize=True, deadline=None)  # a gate gives the same answer twice
settings.load_profile("repeatable")

FIXTURES = Path(__file__).parent / "fixtures" / "focalcodec"


os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: sums differ with it in the last bit


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other; benchmarks change it


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the golden fixtures: one checkpoint with its tensors per released kind of model."""
    return FIXTURES


@pytest.fixture(scope="session")
def codec() -> Callable[[str], FocalCodecModel]:
    """`codec("tiny_50hz")` and so on: a golden model, loaded once; `codec("mel")`: the one without WavLM."""
    return functools.cache(
        lambda name: _mel_codec() if name == "mel" else FocalCodecModel.from_pretrained(FIXTURES / name)
    )


def _mel_codec() -> FocalCodecModel:
    focal = {"focal_window": 7, "focal_level": 2, "focal_factor": 2}
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20},
        compressor={"input_dim": 20, "output_dim": 13, "hidden_dims": [24, 16], "factors": [1, 2], **focal},
        quantizer={"codebook_size": 8192},
        decompressor={"input_dim": 13, "output_dim": 20, "hidden_dims": [16, 24], "factors": [2, 1], **focal},
        decoder={"type": "vocos", "input_dim": 20, "num_layers": 2, "dim": 16, "ffn_dim": 32},
    )
    model = FocalCodecModel(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # larger than a fresh model's, so that tokens vary
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return model
