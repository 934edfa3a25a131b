"""Configs of the parts of a FocalCodec, one small dataclass each. Every width, kernel and rate comes from here."""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any

from ..config_checks import check_sizes

# The reference changed some class defaults between its releases (window 7 -> 14, factor 2 -> 4, widths). So fields that
# determine shapes have no default here: a config without one of them is refused instead of misread.


@dataclass(frozen=True)
class WavLMConfig:
    """First layers of WavLM-large: convolutions, then a pre-norm transformer with a gated relative position bias."""

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
                "hidden_dims, kernel_sizes and strides need one entry per convolution, found "
                f"{len(self.hidden_dims)}, {len(self.kernel_sizes)} and {len(self.strides)}"
            )
        if self.dim % self.num_heads:
            raise ValueError(f"dim ({self.dim}) is not a multiple of num_heads ({self.num_heads})")
        if self.causal and (self.window_size % self.chunk_size or self.window_size == self.chunk_size):
            raise ValueError(
                f"window_size ({self.window_size}) is not two or more times the chunk, lookahead_size + 1 "
                f"({self.chunk_size})"
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
class WhisperConfig:
    """First layers of Whisper's encoder; the defaults are those of Whisper base."""

    num_layers: int
    dim: int = 512
    ffn_dim: int = 2048
    num_heads: int = 8
    bands: int = 80  # mel bands of the input
    max_frames: int = 1500  # positions, 30 s; longer signals are encoded in windows
    causal: bool = False

    def __post_init__(self) -> None:
        if self.causal:
            raise ValueError('type "whisper" has no causal form, but causal is true: use type "mel" or "wavlm"')
        if self.dim % self.num_heads:
            raise ValueError(f"dim ({self.dim}) is not a multiple of num_heads ({self.num_heads})")

    @property
    def hop_length(self) -> int:
        """Samples per frame: a mel hop of 160, and a stride of 2."""
        return 320


@dataclass(frozen=True)
class MelConfig:
    """Log-mel frames as features. They have no parameters, so a codec can be trained without a pretrained encoder."""

    dim: int = 80  # mel bands
    n_fft: int = 1024
    hop_length: int = 320
    sampling_rate: int = 16000
    mean: float = -5.0  # of the log-mel values of speech; features are (log mel - mean) / std
    std: float = 2.5
    causal: bool = False  # frames end with their hop instead of being centered on it

    @property
    def chunk_size(self) -> int:
        """Frames that are processed together by a causal encoder."""
        return 1


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Log-mel frames of clean speech, estimated from a noisy signal by a Conformer that reads features of Whisper."""

    num_layers: int  # first layers of Whisper
    whisper_dim: int = 512
    whisper_ffn_dim: int = 2048
    whisper_heads: int = 8
    hidden_dim: int = 256  # of the Conformer
    depth: int = 5
    num_heads: int = 4
    kernel_size: int = 15
    expansion: int = 2
    dim: int = 80  # mel bands
    causal: bool = False

    @property
    def whisper(self) -> WhisperConfig:
        """Config of the layers of Whisper."""
        return WhisperConfig(self.num_layers, self.whisper_dim, self.whisper_ffn_dim, self.whisper_heads)

    @property
    def mel(self) -> MelConfig:
        """Config of the log-mel frames."""
        return MelConfig(self.dim)

    @property
    def conformer(self) -> "ConformerConfig":
        """Config of the Conformer: its output is an estimate and a gate for each mel band."""
        return ConformerConfig(
            input_dim=self.whisper_dim + self.dim,
            output_dim=2 * self.dim,
            hidden_dims=(self.hidden_dim,) * self.depth,
            factors=(1,) * self.depth,
            num_heads=self.num_heads,
            kernel_size=self.kernel_size,
            expansion=self.expansion,
        )

    def __post_init__(self) -> None:
        if self.causal:
            raise ValueError('type "denoising" has no causal form, but causal is true: use type "mel"')
        # Report a mistake in the sizes now.
        _ = self.whisper, self.mel, self.conformer

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.whisper.hop_length


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Fields of every compressor and decompressor: layers of one block and one scaling each."""

    input_dim: int
    output_dim: int
    hidden_dims: tuple[int, ...]  # width of each layer's block
    factors: tuple[int, ...]  # of each layer's downscaling (compressor) or upscaling (decompressor)
    activation: str = "snake"  # before or after each scaling
    causal: bool = False

    def __post_init__(self) -> None:
        if len(self.hidden_dims) != len(self.factors):
            raise ValueError(
                f"hidden_dims and factors need one entry per layer, found {self.hidden_dims} and {self.factors}"
            )
        if self.activation not in ("snake", "leaky_relu"):
            raise ValueError(f'activation must be "snake" or "leaky_relu", found {self.activation!r}')
        if self.causal and not isinstance(self, FocalConfig | ConvNeXtConfig):
            names = {config_class: name for name, config_class in STACKS.items()}
            raise ValueError(
                f'type "{names[type(self)]}" has no causal form, but causal is true: use type "focal" or "convnext", '
                "or causal: false"
            )


@dataclass(frozen=True, kw_only=True)
class FocalConfig(StackConfig):
    """A stack of focal modulation blocks, as in the released models."""

    focal_window: int  # kernel of the first focal level
    focal_level: int  # number of levels below the global one
    focal_factor: int  # kernel growth per level
    use_post_norm: bool = False
    use_layerscale: bool = False
    layerscale_init: float = 1e-4
    normalize_modulator: bool = False
    tanhscale_init: float = 0.5  # causal only: dynamic tanh replaces LayerNorm
    window_size: int = 512  # causal only: kernel that replaces the global mean
    last_window_size: int | None = None  # causal decompressor only: `window_size` of its last layer
    lookahead_size: int = 0  # causal decompressor only: > 0 adds the refiner


@dataclass(frozen=True, kw_only=True)
class ConformerConfig(StackConfig):
    """A stack of Conformer blocks."""

    num_heads: int
    kernel_size: int  # of the depthwise convolution
    expansion: int  # of the two feed-forward layers; with 1 a block is as large as a focal one (11 to 12 x width^2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(dim % (2 * self.num_heads) for dim in self.hidden_dims):
            raise ValueError(f"hidden_dims {self.hidden_dims} are not multiples of 2 x num_heads ({self.num_heads})")


@dataclass(frozen=True, kw_only=True)
class AMPConfig(StackConfig):
    """A stack of anti-aliased multi-periodicity blocks."""

    kernel_size: int
    dilations: tuple[int, ...]  # two convolutions each; 3 and [1, 3] make a block as large as a focal one


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig(StackConfig):
    """A stack of ConvNeXt blocks."""

    depth: int  # blocks of each layer
    kernel_size: int = 7
    expansion: int = 3  # of the inner width


@dataclass(frozen=True, kw_only=True)
class LinearConfig(StackConfig):
    """A stack of frame-wise projections."""


@dataclass(frozen=True)
class QuantizerConfig:
    """One bit per dimension of the latents, on the unit sphere ("bsq") or off it ("lfq")."""

    codebook_size: int  # a power of two
    type: str = "bsq"

    def __post_init__(self) -> None:
        if self.type not in ("bsq", "lfq"):
            raise ValueError(f'type must be "bsq" or "lfq", found {self.type!r}')
        if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"codebook_size must be a power of two, found {self.codebook_size}")

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
            raise ValueError('type "vocos" has no causal form here, but causal is true: use type "wavenext"')


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


@dataclass(frozen=True)
class HiFiGANConfig:
    """The generator of HiFi-GAN. The defaults are its V1, except for factors that multiply to the codec's hop."""

    input_dim: int
    channels: int = 512  # before the first up-scaling; each halves them
    factors: tuple[int, ...] = (10, 8, 2, 2)
    kernel_sizes: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    causal: bool = False

    def __post_init__(self) -> None:
        if self.causal:
            raise ValueError('type "hifigan" has no causal form, but causal is true: use type "wavenext"')
        if self.channels % 2 ** len(self.factors):
            raise ValueError(f"channels ({self.channels}) cannot be halved once for each of factors {self.factors}")

    @property
    def hop_length(self) -> int:
        """Output samples per frame."""
        return math.prod(self.factors)


ENCODERS = {"wavlm": WavLMConfig, "whisper": WhisperConfig, "mel": MelConfig, "denoising": DenoisingConfig}
STACKS = {
    "focal": FocalConfig,
    "conformer": ConformerConfig,
    "amp": AMPConfig,
    "convnext": ConvNeXtConfig,
    "linear": LinearConfig,
}
DECODERS = {"vocos": VocosConfig, "wavenext": WaveNeXtConfig, "hifigan": HiFiGANConfig}


def build_part(name: str, values: Any, kinds: Any, default: str | None = None) -> Any:
    """Build the dataclass of a part, and report all unknown, missing or mistyped keys at once.

    Args:
        name: name of the part, for messages.
        values: dictionary of its fields.
        kinds: the dataclass, or a dictionary of dataclasses from which `values["type"]` selects one.
        default: the type if `values` has none.

    Raises:
        ValueError: The values do not fit the dataclass.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a dictionary of its fields, found {values!r}")
    # JSON and YAML have lists where the dataclasses have tuples.
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    config_class = kinds
    if isinstance(kinds, dict):
        kind = values.pop("type", default)
        if kind not in kinds:
            raise ValueError(f"{name}.type must be one of {sorted(kinds)}, found {kind!r}")
        config_class = kinds[kind]

    fields = {field.name: field for field in dataclasses.fields(config_class)}
    unknown = sorted(values.keys() - fields.keys())
    missing = []
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            missing.append(key)
    if unknown or missing:
        raise ValueError(
            f"{name}: unknown keys {unknown}, missing keys {missing}; {config_class.__name__} has the fields "
            f"{list(fields)}"
        )
    check_sizes(values, name)
    mistyped = []
    for key, value in values.items():
        hint: Any = fields[key].type
        if not _fits(value, hint):
            type_name = str(hint) if typing.get_origin(hint) or not isinstance(hint, type) else hint.__name__
            mistyped.append(f"{name}.{key} must be {type_name}, found {value!r}")
    if mistyped:
        raise ValueError("; ".join(mistyped))
    try:
        return config_class(**values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of a field: bool, int, float, str, None or a tuple of integers."""
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, int) for item in value)
    # bool is a subclass of int.
    if isinstance(value, bool):
        return hint is bool
    # An int is accepted for a float; `isinstance(0.0, hint)` also covers `float | None`.
    return isinstance(value, hint) or (isinstance(value, int) and isinstance(0.0, hint))
