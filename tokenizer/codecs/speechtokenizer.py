"""SpeechTokenizer (Zhang et al., 2023, arXiv 2308.16692): 16 kHz speech. Its first codebook is distilled from HuBERT.

B batch, T samples, N frames, K codebooks, D feature width.
"""

import math
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig

from ..focalcodec.checkpoint import read_config, read_safetensors
from .adapter import CodecAdapter, CodecConfig, NativeModel, register_model
from .checkpoint import find_weights, fold_weight_norm, load_native
from .layers import CODEBOOK_STATISTICS, ResidualVQ, SEANetDecoder, SEANetEncoder

# The official file also holds the projection to HuBERT's features, which only training needs.
_UNUSED_PREFIX = "transform."
# Fields of the official config for which only one value is supported.
_FIXED_OPTIONS = {
    "bidirectional": True,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
}
# Official name -> ours. The strides are not among them: there they are in the order of the decoder.
_NAMES = {
    "sample_rate": "sampling_rate",
    "n_filters": "channels",
    "dimension": "dim",
    "codebook_size": "codebook_size",
    "n_q": "num_quantizers",
}


@strict
class SpeechTokenizerConfig(PreTrainedConfig):
    """Configuration of a SpeechTokenizer; the defaults are those of `speechtokenizer_hubert_avg`.

    Args:
        sampling_rate: of input and output in Hz.
        channels: of the encoder's first convolution; each stride doubles them.
        strides: of the encoder, in its order; by default 2, 4, 5, 8.
        dim: D, width of the encoder's output and of code vectors.
        codebook_size: codes of one codebook.
        num_quantizers: number of codebooks.
    """

    model_type = "focallm_speechtokenizer"

    sampling_rate: int = 16000
    channels: int = 64
    strides: list[int] | None = None
    dim: int = 1024
    codebook_size: int = 1024
    num_quantizers: int = 8

    def __post_init__(self, **kwargs: Any) -> None:
        self.strides = [2, 4, 5, 8] if self.strides is None else list(self.strides)
        super().__post_init__(**kwargs)

    @property
    def samples_per_token(self) -> int:
        """Samples per frame (320: 50 Hz)."""
        assert self.strides is not None
        return math.prod(self.strides)


class SpeechTokenizerModel(NativeModel):
    """SEANet encoder -> residual codebooks -> SEANet decoder. It has no padding masks."""

    config_class = SpeechTokenizerConfig

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__(config)
        assert config.strides is not None
        self.encoder = SEANetEncoder(config.channels, config.strides, config.dim, bidirectional=True)
        self.quantizer = ResidualVQ(config.num_quantizers, config.codebook_size, config.dim)
        self.decoder = SEANetDecoder(config.channels, config.strides, config.dim)
        self.post_init()

    def extract_features(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T) -> features before quantization (B, D, N), N = ceil(T / samples_per_token)."""
        return self.encoder(waveform)

    def encode(self, waveform: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Waveform (B, 1, T) -> codes (B, K, N) int64 of the first codebooks, by default of all."""
        return self.quantizer.encode(self.extract_features(waveform), num_codebooks or self.config.num_quantizers)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, N) of the first codebooks -> waveform (B, 1, N * samples_per_token), not limited to [-1, 1]."""
        return self.decoder(self.quantizer.decode(codes))


register_model(SpeechTokenizerModel)


class SpeechTokenizerCodec(CodecAdapter):
    """SpeechTokenizer with the methods of `FocalCodecModel`.

    All codebooks are used by default; the FocalCodec paper compares with the first 2 (1000 bit/s).
    """

    model_class = SpeechTokenizerModel

    @classmethod
    def from_pretrained(
        cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any
    ) -> "SpeechTokenizerCodec":
        """Load a folder or hub id, in our layout or the official one.

        The official layout is the published config.json, and the tensors of the .pt file as model.safetensors.

        Raises:
            OSError: There are no safetensors weights. Pickled ones are never loaded.
            ValueError: Damaged weights, an unknown variant, or a key that is missing, left over or of another shape.
        """
        official = None
        config = read_config(source, kwargs)
        if is_official(config):
            tensors = convert_state_dict(read_safetensors(find_weights(source, kwargs)))
            official = (SpeechTokenizerConfig(**convert_config(config)), tensors)
        return cls(load_native(SpeechTokenizerModel, source, official, kwargs), num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """Return (codebook_size, D) for each codebook in use; the decoder sees their sum."""
        return self.model.quantizer.tables()[: self.config.num_quantizers]

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        return config.num_quantizers, config.num_quantizers

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.samples_per_token, config.codebook_size, num_codebooks)

    def _encode_item(self, waveform: Tensor) -> Tensor:
        # Codebooks that are not in use are not searched.
        return self.model.encode(waveform, self.config.num_quantizers)


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config is the official one."""
    return {"n_filters", "n_q", "semantic_dimension"} <= config.keys()


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Convert an official config to keyword arguments of `SpeechTokenizerConfig`. Fields of its training are dropped.

    Raises:
        ValueError: A missing field, or an unknown variant.
    """
    absent = [key for key in (*_NAMES, "strides") if key not in config]
    wrong = []
    for key, value in _FIXED_OPTIONS.items():
        if config.get(key, value) != value:
            wrong.append(f"{key} is {config[key]!r}")
    if absent or wrong:
        raise ValueError(
            f"this SpeechTokenizer is not known here: its config.json lacks {absent}, {wrong}; expected "
            f"{_FIXED_OPTIONS}, as in speechtokenizer_hubert_avg"
        )
    converted = {ours: config[key] for key, ours in _NAMES.items()}
    converted["strides"] = config["strides"][::-1]
    return converted


def convert_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official tensors to ours: drop those that are not used, and fold weight normalization."""
    used = {}
    for key, tensor in tensors.items():
        if not key.startswith(_UNUSED_PREFIX) and not key.endswith(CODEBOOK_STATISTICS):
            used[key] = tensor
    return fold_weight_norm(used)
