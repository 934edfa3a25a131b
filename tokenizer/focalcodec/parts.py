"""The parts of a FocalCodec, one small dataclass each; every width, kernel and rate in the code comes from here."""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any

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

    codebook_size: int

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


def build_part(name: str, values: Any, kinds: Any) -> Any:
    """Build the dataclass of the part `name`; report every unknown, missing and mistyped key at once.

    Args:
        kinds: the dataclass, or a dictionary of them from which `values["type"]` chooses.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a dictionary of its fields, found {values!r}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
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
    wrong = [
        f"{name}.{n} must be {_label(known[n].type)}, found {v!r}"
        for n, v in values.items()
        if not _fits(v, known[n].type)
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    return kinds(**values)


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, int) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, hint) or (isinstance(value, int) and isinstance(0.0, hint))


def _label(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_origin(hint) else str(hint)
