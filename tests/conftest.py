"""Fixtures of all tests: golden models, and tiny codecs with seeded random weights."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel
from focallm.tokenizer.codec import Codec
from focallm.tokenizer.codecs.bigcodec import BigCodec
from focallm.tokenizer.codecs.speechtokenizer import SpeechTokenizerCodec
from focallm.tokenizer.codecs.stable_codec import StableCodec
from focallm.tokenizer.codecs.transformers_codecs import DacCodec, EncodecCodec, MimiCodec, NeuCodec, Xcodec2Codec
from focallm.tokenizer.codecs.ts3_codec import TS3Codec
from focallm.tokenizer.codecs.wavlm_km import WavLMKM
from focallm.tokenizer.codecs.wavtokenizer import WavTokenizerCodec

# Hypothesis draws the same examples in every run, so that the gate gives the same answer twice.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

FIXTURES = Path(__file__).parent / "fixtures" / "focalcodec"

# Every codec with tiny weights: golden models, and config fields of random ones. The tests that take `any_codec`
# tokenize with each of them, train on its tokens and describe it, so a new codec needs an entry here.
_CODECS = FIXTURES.parent / "codecs"
_GOLDEN = {
    "focalcodec": functools.partial(FocalCodecModel.from_pretrained, FIXTURES / "tiny_25hz"),
    "bigcodec": functools.partial(BigCodec.from_pretrained, _CODECS / "bigcodec"),
    "speechtokenizer": functools.partial(SpeechTokenizerCodec.from_pretrained, _CODECS / "speechtokenizer"),
    "stable_codec": functools.partial(
        StableCodec.from_pretrained, _CODECS / "stable_codec" / "tiny", 2, preset="4x729_1000bps"
    ),
    "wavtokenizer": functools.partial(WavTokenizerCodec.from_pretrained, _CODECS / "wavtokenizer"),
}
_HEADS = {"num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
_W2V_BERT = {"hidden_size": 16, "output_hidden_size": 16, "conv_depthwise_kernel_size": 7, **_HEADS}
_XCODEC2 = {
    "semantic_model_config": {"model_type": "wav2vec2-bert", **_W2V_BERT},
    "quantization_levels": [4, 4, 3],
    **{"hidden_size": 64, "head_dim": 32, "encoder_hidden_size": 2, "quantization_dim": 80, **_HEADS},
}
_MIMI = {"hidden_size": 32, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16, "upsample_groups": 32}
_TS3 = {"frame_hidden": 24, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "window": 5, "codebook_dim": 4}
_ENCODEC = {"num_filters": 4, "hidden_size": 16, "num_lstm_layers": 1, "target_bandwidths": [0.9, 1.8]}
_DAC = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4, 5, 8], "decoder_hidden_size": 32, "n_codebooks": 4}
_WAVLM = {"kernel_sizes": [10, 3, 3, 3, 3, 2, 2], "strides": [5, 2, 2, 2, 2, 2, 2], "hidden_dims": [12] * 7}
_WAVLM_KM = {
    "encoder": {**_WAVLM, "dim": 32, "ffn_dim": 48, "num_heads": 4},
    **{"num_features": 32, "num_clusters": 24, "dim": 32, "num_layers": 1, "ffn_dim": 48, "vocoder_channels": 32},
}
_RANDOM = {
    "wavlm_km": (WavLMKM, _WAVLM_KM),
    "encodec": (EncodecCodec, {"codebook_size": 64, **_ENCODEC}),
    "dac": (DacCodec, {"codebook_size": 32, **_DAC}),
    "mimi": (MimiCodec, {"num_filters": 4, "num_quantizers": 4, "codebook_size": 64, **_MIMI, **_HEADS}),
    "ts3_codec": (TS3Codec, {"frame_size": 40, "codebook_size": 64, **_TS3}),
    "xcodec2": (Xcodec2Codec, _XCODEC2),
    "neucodec": (NeuCodec, _XCODEC2),
}

# For processes that tests start: the number of threads changes the last bit of sums.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # With tiny models, more threads only wait for each other. Benchmarks change the number, so each test sets it again.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the golden fixtures: a checkpoint and its tensors for each released kind of model."""
    return FIXTURES


@pytest.fixture(scope="session")
def codec() -> Callable[[str], FocalCodecModel]:
    """`codec("tiny_50hz")` loads a golden model once; `codec("mel")` is a random model without WavLM."""
    return functools.cache(
        lambda name: _mel_codec() if name == "mel" else FocalCodecModel.from_pretrained(FIXTURES / name)
    )


@pytest.fixture(scope="session")
def denoising_codec() -> FocalCodecModel:
    """A tiny codec with random weights whose encoder is of type "denoising"."""
    torch.manual_seed(0)
    stack = {"type": "linear", "hidden_dims": [16], "factors": [1]}
    encoder = {
        "type": "denoising", "num_layers": 1, "whisper_dim": 64, "whisper_ffn_dim": 64, "whisper_heads": 1,
        "hidden_dim": 32, "depth": 1, "num_heads": 2,
    }  # fmt: skip
    config = FocalCodecConfig(
        encoder=encoder,
        compressor={**stack, "input_dim": 80, "output_dim": 6},
        quantizer={"codebook_size": 64},
        decompressor={**stack, "input_dim": 6, "output_dim": 80},
        decoder={"type": "vocos", "input_dim": 80, "num_layers": 1, "dim": 16, "ffn_dim": 32},
    )
    return FocalCodecModel(config).eval()


@pytest.fixture(scope="session")
def tiny_codec() -> Callable[..., Codec]:
    """`tiny_codec("dac")` and so on: a codec with tiny weights, with the same weights in each call."""

    def make(name: str, num_codebooks: int | None = None, **changes: object) -> Codec:
        if name in _GOLDEN:
            return _GOLDEN[name]()
        adapter, fields = _RANDOM[name]
        torch.manual_seed(0)
        model_class = adapter.get_model_class()
        model = model_class(model_class.config_class(**{**fields, **changes}))
        for key, tensor in model.state_dict().items():  # larger than a fresh model's, so that tokens vary
            if key.endswith(("embed", "embed_sum", "centroids")):  # of codebooks, where a fresh model has zeros
                torch.nn.init.normal_(tensor, std=0.05 if name == "mimi" else 1.0)
            elif key.endswith("cluster_usage"):
                torch.nn.init.ones_(tensor)
            elif tensor.ndim > 1 and name in ("xcodec2", "neucodec"):
                torch.nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5)
        return adapter(model, num_codebooks)

    return make


@pytest.fixture(params=[*_GOLDEN, *_RANDOM])
def any_codec(request: pytest.FixtureRequest, tiny_codec: Callable[..., Codec]) -> Codec:
    """Each codec in turn."""
    return tiny_codec(request.param)


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
