"""Stable Codec (Parker et al., 2024, arXiv 2411.19842): 16 kHz speech at 400 to 1000 bit/s.

B batch, K codebooks, N frames, T samples, D latent dimensions. The weights of stabilityai/stable-codec-speech-16k have
their own license, which has to be accepted on the hub.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig

from ..focalcodec.checkpoint import read_config, read_safetensors
from ..focalcodec.parts import build_part
from .adapter import USED_CODEBOOKS_KEY, CodecAdapter, CodecConfig, NativeModel, register_model
from .checkpoint import find_weights, fold_weight_norm, load_native
from .taae import Decoder, Encoder, TAAEConfig

# The official config; its weights are in model.safetensors.
CONFIG_NAME = "model_config.json"
# Parts of the official config, and the type that each must have.
_TYPES = {"encoder": "taae", "decoder": "taae", "bottleneck": "dithered_fsq", "pretransform": "patched"}
# Inferred from the published numbers of parameters and operations. A checkpoint brings its own sizes.
_DEFAULT_TAAE = {"channels": 1024, "c_mults": [1, 1], "strides": [1, 2], "transformer_depths": [16, 12]}
# (levels per dimension, scale) of each stage of the quantizer, by the names of the paper's "post-hoc" bottlenecks.
PRESETS: dict[str, tuple[tuple[int, float], ...]] = {
    "1x46656_400bps": ((6, 1.0),),
    "2x15625_700bps": ((5, 1.0), (5, 0.25)),
    "4x729_1000bps": ((3, 1.0), (3, 0.5), (3, 0.25), (3, 0.125)),
}


class ResidualFSQ:
    """Residual finite scalar quantization (Mentzer et al., 2023, arXiv 2309.15505; Parker et al., 2024).

    Each stage rounds what the stages before it left over to a grid of L^D points in [-scale, scale]. It has no weights,
    so the stages of a trained model can be chosen freely.

    Args:
        dim: D.
        stages: (L, scale) of each stage.

    Raises:
        ValueError: There is no stage, or fewer than two levels, or the stages have different numbers of levels.
    """

    def __init__(self, dim: int, stages: tuple[tuple[int, float], ...]) -> None:
        sizes = {levels for levels, _ in stages}
        if len(sizes) != 1 or min(sizes) < 2:
            raise ValueError(
                "the stages of a residual FSQ need the same number of levels, at least 2, because all codebooks of the "
                f"codec have one size; found {list(stages)}"
            )
        self.dim = dim
        self.levels = stages[0][0]
        self.scales = [scale for _, scale in stages]

    @property
    def codebook_size(self) -> int:
        """Codes of one stage, L^D."""
        return self.levels**self.dim

    def to_codes(self, latents: Tensor) -> Tensor:
        """Quantize unbounded latents (B, D, N) to codes (B, K, N) int64.

        The first dimension is the least significant digit of a code. Ties are rounded to the even level.
        """
        # In float64, because rounding must not depend on the device.
        rest = latents.double().tanh()
        codes = []
        for scale in self.scales:
            # Nothing has to be clipped: what a stage leaves over is at most the scale of the next.
            step = self._step(scale)
            level = ((rest + scale) / step).round()
            rest = rest - (level * step - scale)
            codes.append((level.long() * self._digits(latents)).sum(1))
        return torch.stack(codes, dim=1)

    def to_vectors(self, codes: Tensor) -> Tensor:
        """Sum up the grid points of codes (B, K, N) of the first K stages, -> (B, D, N) float32."""
        points = torch.zeros(codes.shape[0], self.dim, codes.shape[2], dtype=torch.float64, device=codes.device)
        # Not strict: there may be fewer codes than stages.
        for code, scale in zip(codes.unbind(1), self.scales, strict=False):
            points += (code[:, None] // self._digits(codes)) % self.levels * self._step(scale) - scale
        return points.float()

    def tables(self, device: torch.device | str = "cpu") -> list[Tensor]:
        """Return the (L^D, D) points of each stage, float32."""
        codes = torch.arange(self.codebook_size, device=device)[:, None]
        level = codes // self._digits(codes)[:, 0] % self.levels
        return [(level * self._step(scale) - scale).float() for scale in self.scales]

    def _step(self, scale: float) -> float:
        """Return the distance between two levels."""
        # The reference holds it in float32; rounding it likewise makes the same ties.
        return float(torch.tensor(2 * scale / (self.levels - 1), dtype=torch.float32))

    def _digits(self, like: Tensor) -> Tensor:
        """Return the place value of each dimension in a code, (D, 1)."""
        return self.levels ** torch.arange(self.dim, device=like.device)[:, None]


@strict
class StableCodecConfig(PreTrainedConfig):
    """Configuration of a Stable Codec.

    Args:
        encoder: fields of `TAAEConfig`.
        decoder: fields of `TAAEConfig`.
        sampling_rate: in Hz.
        patch_size: samples that become the channels of one frame before the encoder.
        latent_dim: D.
        native_levels: levels of the quantizer that the model was trained with.
        stages: (levels, scale) of each codebook in use; by default 2 x 15625 codes, 700 bit/s at 25 Hz, as in the
            FocalCodec paper.

    Raises:
        ValueError: An unknown field, or fields that contradict each other.
    """

    model_type = "focallm_stable_codec"

    encoder: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    sampling_rate: int = 16000
    patch_size: int = 320
    latent_dim: int = 6
    native_levels: int = 17
    stages: list[Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder = dict(_DEFAULT_TAAE if self.encoder is None else self.encoder)
        self.decoder = dict(_DEFAULT_TAAE if self.decoder is None else self.decoder)
        stages = PRESETS["2x15625_700bps"] if self.stages is None else self.stages
        self.stages = [list(stage) for stage in stages]
        if math.prod(self.encoder_config.strides) != math.prod(self.decoder_config.strides):
            raise ValueError(
                f"encoder.strides {self.encoder_config.strides} and decoder.strides {self.decoder_config.strides} "
                "must have the same product"
            )
        super().__post_init__(**kwargs)

    @property
    def encoder_config(self) -> TAAEConfig:
        """`encoder` as its dataclass, checked."""
        return build_part("encoder", self.encoder, TAAEConfig)

    @property
    def decoder_config(self) -> TAAEConfig:
        """`decoder` as its dataclass, checked."""
        return build_part("decoder", self.decoder, TAAEConfig)

    @property
    def samples_per_token(self) -> int:
        """Samples per frame of codes (640: 25 Hz)."""
        return self.patch_size * math.prod(self.encoder_config.strides)

    @property
    def quantizer(self) -> ResidualFSQ:
        """The residual quantizer of `stages`."""
        assert self.stages is not None
        # JSON turns tuples into lists.
        return ResidualFSQ(self.latent_dim, tuple((int(levels), float(scale)) for levels, scale in self.stages))


class StableCodecModel(NativeModel):
    """Patches -> transformers -> tanh and residual FSQ -> transformers -> patches. It has no padding masks."""

    config_class = StableCodecConfig

    def __init__(self, config: StableCodecConfig) -> None:
        super().__init__(config)
        self.quantizer = config.quantizer
        self.encoder = Encoder(config.encoder_config, config.patch_size, config.latent_dim)
        self.decoder = Decoder(config.decoder_config, config.patch_size, config.latent_dim)
        self.post_init()

    def extract_latents(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> continuous latents before tanh (B, D, N), N = ceil(T / samples_per_token)."""
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.samples_per_token))
        patches = waveform.flatten(1).unflatten(1, (-1, self.config.patch_size))
        return self.encoder(patches.mT)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> codes (B, K, N) int64 of all stages."""
        return self.quantizer.to_codes(self.extract_latents(waveform))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, N) of all stages, or of the first of them, -> (B, 1, N * samples_per_token)."""
        patches = self.decoder(self.quantizer.to_vectors(codes).to(self.dtype))
        return patches.mT.flatten(1)[:, None]


register_model(StableCodecModel)


class StableCodec(CodecAdapter):
    """Stable Codec with the methods of `FocalCodecModel`. All stages of the preset are used by default.

    Attention is computed in float32, within its sliding window. The official package computes it in float16 on a GPU,
    where a few codes may differ, and without the window on a CPU. Audio is encoded at its own loudness; the official
    package normalizes files, but not tensors, to -20 LUFS.
    """

    model_class = StableCodecModel

    @classmethod
    def from_pretrained(
        cls, source: str | Path, num_codebooks: int | None = None, preset: str | None = None, **kwargs: Any
    ) -> "StableCodec":
        """Load a folder or hub id, in our layout or the official one (model_config.json and model.safetensors).

        Args:
            source: folder or hub id.
            num_codebooks: how many stages to use.
            preset: `"1x46656_400bps"`, `"2x15625_700bps"`, `"4x729_1000bps"`, or `"native"`, the single codebook of 24
                million codes that the model was trained with. The default is that of the folder, or else the second.
            kwargs: options of transformers; weights are float32 unless `dtype` is given.

        Raises:
            OSError: There are no safetensors weights.
            ValueError: An unknown preset, damaged weights, or a key that is missing, left over or of another shape.
        """
        if preset not in (None, "native", *PRESETS):
            raise ValueError(f"preset must be one of {[*PRESETS, 'native']}, found {preset!r}")
        official = None
        if not read_config(source, kwargs):
            config = read_config(source, kwargs, CONFIG_NAME)
            if config:
                tensors = read_safetensors(find_weights(source, kwargs))
                official = (StableCodecConfig(**convert_config(config)), fold_weight_norm(tensors))
        model = load_native(StableCodecModel, source, official, kwargs)
        if preset is not None:
            stages = ((model.config.native_levels, 1.0),) if preset == "native" else PRESETS[preset]
            model.config.stages = [list(stage) for stage in stages]
            model.quantizer = model.config.quantizer
            # The stored number counts the codebooks of another preset.
            setattr(model.config, USED_CODEBOOKS_KEY, None)
        return cls(model, num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """Return (codebook_size, D) for each codebook in use; the decoder sees their sum."""
        return self.model.quantizer.tables()[: self.config.num_quantizers]

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        return len(config.stages), len(config.stages)

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        codebook_size = config.quantizer.codebook_size
        return CodecConfig(config.sampling_rate, config.samples_per_token, codebook_size, num_codebooks)


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config has the official schema, which is that of stable-audio-tools."""
    parts = config.get("model")
    return config.get("model_type") == "autoencoder" and isinstance(parts, dict) and "bottleneck" in parts


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Convert an official config to keyword arguments of `StableCodecConfig`. Keys that change no result are dropped.

    Raises:
        ValueError: Another autoencoder of stable-audio-tools, or parts that contradict each other.
    """
    if not is_official(config):
        raise ValueError(f"{CONFIG_NAME} does not describe a Stable Codec: its keys are {sorted(config)[:10]}")
    parts = config["model"]
    types = {part: (parts.get(part) or {}).get("type") for part in _TYPES}
    if types != _TYPES:
        raise ValueError(f"the parts of a Stable Codec are {_TYPES}, found {types}")
    encoder = parts["encoder"].get("config", {})
    decoder = parts["decoder"].get("config", {})
    bottleneck = parts["bottleneck"].get("config", {})
    pretransform = parts["pretransform"].get("config", {})

    latent_dim = bottleneck.get("dim")
    patch_size = pretransform.get("patch_size")
    problems = []
    expected_values = (
        (encoder, "in_channels", patch_size),
        (decoder, "out_channels", patch_size),
        (encoder, "latent_dim", latent_dim),
        (decoder, "latent_dim", latent_dim),
        (pretransform, "channels", 1),
    )
    for fields, key, expected in expected_values:
        if fields.get(key) != expected:
            problems.append(f"{key} is {fields.get(key)} instead of {expected}")
    # `levels` is one number, or a list with one number per dimension.
    levels = bottleneck.get("levels")
    different_levels = {levels} if isinstance(levels, int) else set(levels or ())
    if len(different_levels) != 1 or bottleneck.get("num_codebooks", 1) != 1:
        problems.append(f"bottleneck {bottleneck} is not one codebook with the same levels in each dimension")
    if problems:
        raise ValueError("this Stable Codec is not known here: " + "; ".join(problems))

    known = TAAEConfig.__dataclass_fields__
    return {
        "encoder": {key: value for key, value in encoder.items() if key in known},
        "decoder": {key: value for key, value in decoder.items() if key in known},
        "sampling_rate": config["sample_rate"],
        "patch_size": patch_size,
        "latent_dim": latent_dim,
        "native_levels": different_levels.pop(),
    }
