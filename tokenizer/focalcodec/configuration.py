"""What a FocalCodec is made of: one small dataclass per part, and the transformers config that holds them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

# The reference changed some class defaults between its releases (window 7 -> 14, factor 2 -> 4, widths), so the fields
# that decide shapes have no default here: a config that omits one is refused instead of silently misread.


@dataclass(frozen=True)
class WavLMConfig:
    """First layers of WavLM-large (spec: convolutions, gated relative position bias, pre-norm transformer)."""

    hidden_dims: tuple[int, ...]  # width of each convolution
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    num_layers: int
    dim: int
    ffn_dim: int
    num_heads: int
    num_buckets: int = 320  # relative position buckets, both directions together
    max_distance: int = 800  # frames after which all distances share a bucket
    conv_pos: int = 128  # kernel of the positional convolution
    conv_pos_groups: int = 16
    causal: bool = False
    window_size: int = 512  # causal only: frames that attention can see
    lookahead_size: int = 3  # causal only: frames of the same chunk that attention may look ahead

    def __post_init__(self) -> None:
        if not len(self.hidden_dims) == len(self.kernel_sizes) == len(self.strides):
            raise ValueError(
                "encoder.hidden_dims, encoder.kernel_sizes and encoder.strides need one entry per convolution, found "
                f"{len(self.hidden_dims)}, {len(self.kernel_sizes)} and {len(self.strides)}"
            )
        if self.dim % self.num_heads:
            raise ValueError(f"encoder.dim ({self.dim}) is not a multiple of encoder.num_heads ({self.num_heads})")
        if self.causal and (self.window_size % self.chunk_size or self.window_size == self.chunk_size):
            raise ValueError(
                f"encoder.window_size ({self.window_size}) is not two or more times the chunk, "
                f"encoder.lookahead_size + 1 ({self.chunk_size})"
            )

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def chunk_size(self) -> int:
        """Frames that are processed together by a causal encoder."""
        return self.lookahead_size + 1


@dataclass(frozen=True)
class MelConfig:
    """Log-mel frames as features: no parameters, so a codec can be trained with no pretrained encoder."""

    dim: int = 80  # mel bands
    n_fft: int = 1024
    hop_length: int = 320
    sampling_rate: int = 16000
    mean: float = -5.0  # of the log-mel values of speech; features are (log mel - mean) / std
    std: float = 2.5
    causal: bool = False

    def __post_init__(self) -> None:
        if self.causal:
            raise ValueError('encoder.type "mel" has no causal form: use encoder.type "wavlm" with encoder.causal')


@dataclass(frozen=True)
class FocalConfig:
    """A stack of focal modulation blocks; `factors` are down- (compressor) or up-scalings (decompressor)."""

    input_dim: int
    output_dim: int
    hidden_dims: tuple[int, ...]
    factors: tuple[int, ...]
    focal_window: int  # kernel of the first focal level
    focal_level: int  # number of levels below the global one
    focal_factor: int  # kernel growth per level
    use_post_norm: bool = False
    use_layerscale: bool = False
    layerscale_init: float = 1e-4
    normalize_modulator: bool = False
    tanhscale_init: float = 0.5  # causal only: dynamic tanh replaces LayerNorm
    causal: bool = False
    window_size: int = 512  # causal only: kernel that replaces the global mean
    last_window_size: int | None = None  # causal decompressor only: the same for its last layer
    lookahead_size: int = 0  # causal decompressor only: > 0 adds the refiner

    def __post_init__(self) -> None:
        if len(self.hidden_dims) != len(self.factors):
            raise ValueError(
                f"hidden_dims and factors need one entry per layer, found {self.hidden_dims} and {self.factors}"
            )


@dataclass(frozen=True)
class QuantizerConfig:
    """Binary spherical quantiser: `codebook_size` is a power of two."""

    codebook_size: int = 8192

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"quantizer.codebook_size must be a power of two, found {self.codebook_size}")

    @property
    def codebook_dim(self) -> int:
        """Bits per token."""
        return self.codebook_size.bit_length() - 1


@dataclass(frozen=True)
class VocosConfig:
    """ConvNeXt backbone with an inverse STFT head; not causal."""

    input_dim: int
    num_layers: int = 8
    dim: int = 512
    ffn_dim: int = 1536
    kernel_size: int = 7
    layerscale_init: float | None = None
    n_fft: int = 1024
    hop_length: int = 320  # output samples per frame
    causal: bool = False

    def __post_init__(self) -> None:
        if self.causal:
            raise ValueError('decoder.type "vocos" has no causal form here: use decoder.type "wavenext"')


@dataclass(frozen=True)
class WaveNeXtConfig:
    """ConvNeXt backbone with a linear waveform head."""

    input_dim: int
    num_layers: int = 8
    dim: int = 1024
    ffn_dim: int = 2048
    kernel_size: int = 7
    layerscale_init: float | None = None
    hop_length: int = 480
    causal: bool = True


ENCODERS = {"wavlm": WavLMConfig, "mel": MelConfig}
DECODERS = {"vocos": VocosConfig, "wavenext": WaveNeXtConfig}

_WAVLM_LARGE_6 = {
    "type": "wavlm",
    "hidden_dims": [512] * 7,
    "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
    "strides": [5, 2, 2, 2, 2, 2, 2],
    "num_layers": 6,
    "dim": 1024,
    "ffn_dim": 4096,
    "num_heads": 16,
}
_FOCAL = {"factors": [1, 1, 1], "focal_window": 7, "focal_level": 2, "focal_factor": 2}
_COMPRESSOR = {"input_dim": 1024, "output_dim": 13, "hidden_dims": [1024, 512, 256], **_FOCAL}
_DECOMPRESSOR = {"input_dim": 13, "output_dim": 1024, "hidden_dims": [256, 512, 1024], **_FOCAL}


class FocalCodecConfig(PreTrainedConfig):
    """Configuration of a FocalCodec; the defaults are those of the released 50 Hz model (arXiv 2502.04465).

    Args:
        encoder: `{"type": "wavlm" | "mel", ...}`, the fields of `WavLMConfig` or `MelConfig`.
        compressor, decompressor: the fields of `FocalConfig`.
        quantizer: the fields of `QuantizerConfig`.
        decoder: `{"type": "vocos" | "wavenext", ...}`, the fields of `VocosConfig` or `WaveNeXtConfig`.
        sampling_rate: rate of the input in Hz. The output rate follows from the two hop lengths.

    Raises:
        ValueError: an unknown or missing key, or two parts that do not fit; the message names the fields.
    """

    model_type = "focalcodec"

    encoder: dict[str, Any] | None = None
    compressor: dict[str, Any] | None = None
    quantizer: dict[str, Any] | None = None
    decompressor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    sampling_rate: int = 16000

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder = dict(self.encoder or _WAVLM_LARGE_6)
        self.compressor = dict(self.compressor or _COMPRESSOR)
        self.quantizer = dict(self.quantizer or {"codebook_size": 8192})
        self.decompressor = dict(self.decompressor or _DECOMPRESSOR)
        self.decoder = dict(self.decoder or {"type": "vocos", "input_dim": 1024})
        _check_parts_fit(self)
        super().__post_init__(**kwargs)

    @property
    def encoder_config(self) -> WavLMConfig | MelConfig:
        return _part("encoder", self.encoder, ENCODERS)

    @property
    def compressor_config(self) -> FocalConfig:
        return _part("compressor", self.compressor, FocalConfig)

    @property
    def quantizer_config(self) -> QuantizerConfig:
        return _part("quantizer", self.quantizer, QuantizerConfig)

    @property
    def decompressor_config(self) -> FocalConfig:
        return _part("decompressor", self.decompressor, FocalConfig)

    @property
    def decoder_config(self) -> VocosConfig | WaveNeXtConfig:
        return _part("decoder", self.decoder, DECODERS)

    @property
    def causal(self) -> bool:
        """Whether tokens can be streamed with results equal to the whole signal's."""
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
        return self.hop_length * self.encoder_config.chunk_size if self.causal else self.samples_per_token

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
        return self.quantizer_config.codebook_size

    @property
    def codebook_dim(self) -> int:
        return self.quantizer_config.codebook_dim

    @property
    def num_quantizers(self) -> int:
        return 1


def _part(name: str, values: dict[str, Any], kinds: Any) -> Any:
    """Build the dataclass of one part; report every unknown and missing key at once."""
    values = dict(values)
    if isinstance(kinds, dict):
        kind = values.pop("type", None)
        if kind not in kinds:
            raise ValueError(f"{name}.type must be one of {sorted(kinds)}, found {kind!r}")
        kinds = kinds[kind]
    known = {field.name: field for field in dataclasses.fields(kinds)}
    unknown = sorted(set(values) - set(known))
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
    if unknown or missing:
        raise ValueError(
            f"{name}: unknown keys {unknown}, missing keys {missing}; {kinds.__name__} has the fields {list(known)}"
        )
    return kinds(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def _check_parts_fit(config: FocalCodecConfig) -> None:
    encoder, compressor = config.encoder_config, config.compressor_config
    decompressor, decoder = config.decompressor_config, config.decoder_config
    bits = config.codebook_dim
    pairs = [
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
    wrong = [f"{a} is {x} but {b} is {y}" for a, x, b, y in pairs if x != y]
    if isinstance(encoder, MelConfig) and encoder.sampling_rate != config.sampling_rate:
        wrong.append(f"encoder.sampling_rate is {encoder.sampling_rate} but sampling_rate is {config.sampling_rate}")
    if wrong:
        raise ValueError("the parts of this FocalCodec do not fit: " + "; ".join(wrong))
