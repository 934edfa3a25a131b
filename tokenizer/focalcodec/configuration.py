"""The config of a FocalCodec for transformers: one dictionary per part (see `parts`), checked to fit together."""

import copy
import math
from typing import Any

from transformers import PreTrainedConfig

from .parts import (
    DECODERS,
    ENCODERS,
    STACKS,
    DenoisingConfig,
    FocalConfig,
    HiFiGANConfig,
    MelConfig,
    QuantizerConfig,
    StackConfig,
    VocosConfig,
    WaveNeXtConfig,
    WavLMConfig,
    WhisperConfig,
    build_part,
)

_FOCAL = {"factors": [1, 1, 1], "focal_window": 7, "focal_level": 2, "focal_factor": 2}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "encoder": {
        "type": "wavlm",
        "hidden_dims": [512] * 7,
        "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
        "strides": [5, 2, 2, 2, 2, 2, 2],
        "num_layers": 6,
        "dim": 1024,
        "ffn_dim": 4096,
        "num_heads": 16,
    },
    "compressor": {"input_dim": 1024, "output_dim": 13, "hidden_dims": [1024, 512, 256], **_FOCAL},
    "quantizer": {"codebook_size": 8192},
    "decompressor": {"input_dim": 13, "output_dim": 1024, "hidden_dims": [256, 512, 1024], **_FOCAL},
    "decoder": {"type": "vocos", "input_dim": 1024},
}


class FocalCodecConfig(PreTrainedConfig):
    """Configuration of a FocalCodec; the defaults are those of the released 50 Hz model (arXiv 2502.04465).

    Args:
        encoder: `{"type": "wavlm" | "whisper" | "mel" | "denoising", ...}` and the fields of `WavLMConfig`,
            `WhisperConfig`, `MelConfig` or `DenoisingConfig`.
        compressor: `{"type": "focal" | "conformer" | "amp" | "convnext" | "linear", ...}` (by default "focal") and the
            fields of `FocalConfig`, `ConformerConfig`, `AMPConfig`, `ConvNeXtConfig` or `LinearConfig`.
        quantizer: fields of `QuantizerConfig`.
        decompressor: like `compressor`.
        decoder: `{"type": "vocos" | "wavenext" | "hifigan", ...}` and the fields of `VocosConfig`, `WaveNeXtConfig` or
            `HiFiGANConfig`.
        sampling_rate: rate of the input in Hz. The output rate follows from the two hop lengths.

    Raises:
        ValueError: A key is unknown or missing, or two parts do not fit; the message names the fields.
    """

    model_type = "focalcodec"

    encoder: dict[str, Any] | None = None
    compressor: dict[str, Any] | None = None
    quantizer: dict[str, Any] | None = None
    decompressor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    sampling_rate: int = 16000

    def __post_init__(self, **kwargs: Any) -> None:
        for part, default in _DEFAULTS.items():
            fields = getattr(self, part)
            if fields is None:
                fields = default
            # A copy, so that changes to one config do not affect another.
            setattr(self, part, copy.deepcopy(fields))
        _check_parts_fit(self)
        super().__post_init__(**kwargs)

    @property
    def encoder_config(self) -> WavLMConfig | WhisperConfig | MelConfig | DenoisingConfig:
        """`encoder` as a dataclass."""
        return build_part("encoder", self.encoder, ENCODERS)

    @property
    def compressor_config(self) -> StackConfig:
        """`compressor` as a dataclass."""
        return build_part("compressor", self.compressor, STACKS, default="focal")

    @property
    def quantizer_config(self) -> QuantizerConfig:
        """`quantizer` as a dataclass."""
        return build_part("quantizer", self.quantizer, QuantizerConfig)

    @property
    def decompressor_config(self) -> StackConfig:
        """`decompressor` as a dataclass."""
        return build_part("decompressor", self.decompressor, STACKS, default="focal")

    @property
    def decoder_config(self) -> VocosConfig | WaveNeXtConfig | HiFiGANConfig:
        """`decoder` as a dataclass."""
        return build_part("decoder", self.decoder, DECODERS)

    @property
    def causal(self) -> bool:
        """Whether the codec can be streamed, with the same tokens as those of the whole signal."""
        return self.encoder_config.causal

    @property
    def hop_length(self) -> int:
        """Input samples per encoder frame (320: 50 Hz)."""
        return self.encoder_config.hop_length

    @property
    def samples_per_token(self) -> int:
        """Input samples per token."""
        return self.hop_length * math.prod(self.compressor_config.factors)

    @property
    def chunk_length(self) -> int:
        """Input samples of one streaming chunk."""
        if not self.causal:
            return self.samples_per_token
        encoder = self.encoder_config
        decompressor = self.decompressor_config
        assert isinstance(encoder, WavLMConfig | MelConfig), "Whisper has no causal form"
        # A chunk holds whole chunks of the encoder, whole tokens, and whole chunks of the refiner.
        refiner_chunk = 1
        if isinstance(decompressor, FocalConfig):
            refiner_chunk = decompressor.lookahead_size + 1
        frames = math.lcm(encoder.chunk_size, math.prod(self.compressor_config.factors), refiner_chunk)
        return self.hop_length * frames

    @property
    def frame_rate(self) -> float:
        """Tokens per second."""
        return self.sampling_rate / self.samples_per_token

    @property
    def output_sampling_rate(self) -> int:
        """Rate of decoded audio in Hz."""
        return self.sampling_rate * self.decoder_config.hop_length // self.hop_length

    @property
    def codebook_size(self) -> int:
        """Number of different tokens."""
        return self.quantizer_config.codebook_size

    @property
    def codebook_dim(self) -> int:
        """Bits per token."""
        return self.quantizer_config.codebook_dim

    @property
    def num_quantizers(self) -> int:
        """Tokens per frame: 1, because FocalCodec has a single codebook."""
        return 1

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook."""
        return (self.codebook_size,)

    @property
    def frames_per_block(self) -> int:
        """Frames that can only be decoded together: 1, so a sequence may begin anywhere."""
        return 1


def _check_parts_fit(config: FocalCodecConfig) -> None:
    if type(config.sampling_rate) is not int or config.sampling_rate < 1:
        raise ValueError(f"sampling_rate must be a number of Hz, found {config.sampling_rate!r}")
    encoder = config.encoder_config
    compressor = config.compressor_config
    decompressor = config.decompressor_config
    decoder = config.decoder_config
    bits = config.codebook_dim
    # Values that must be equal, with their names.
    equal_values = [
        ("encoder.dim", encoder.dim, "compressor.input_dim", compressor.input_dim),
        ("compressor.output_dim", compressor.output_dim, "log2 of quantizer.codebook_size", bits),
        ("decompressor.input_dim", decompressor.input_dim, "log2 of quantizer.codebook_size", bits),
        ("decompressor.output_dim", decompressor.output_dim, "decoder.input_dim", decoder.input_dim),
        ("product of compressor.factors", math.prod(compressor.factors),
         "product of decompressor.factors", math.prod(decompressor.factors)),
        ("encoder.causal", encoder.causal, "compressor.causal", compressor.causal),
        ("encoder.causal", encoder.causal, "decompressor.causal", decompressor.causal),
        ("encoder.causal", encoder.causal, "decoder.causal", decoder.causal),
    ]  # fmt: skip
    mismatches = []
    for first_name, first, second_name, second in equal_values:
        if first != second:
            mismatches.append(f"{first_name} is {first} but {second_name} is {second}")
    if isinstance(encoder, MelConfig) and encoder.sampling_rate != config.sampling_rate:
        mismatches.append(
            f"encoder.sampling_rate is {encoder.sampling_rate} but sampling_rate is {config.sampling_rate}"
        )
    if isinstance(encoder, WhisperConfig | DenoisingConfig) and config.sampling_rate != 16000:
        mismatches.append(f"Whisper in the encoder reads 16000 Hz but sampling_rate is {config.sampling_rate}")
    if mismatches:
        raise ValueError("the parts of this FocalCodec do not fit: " + "; ".join(mismatches))
