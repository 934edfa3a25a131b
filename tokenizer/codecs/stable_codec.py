"""Stable Codec (Parker et al., 2024, arXiv 2411.19842): 16 kHz speech at 400 to 1000 bit/s.

B batch, K codebooks, N frames, T samples. The weights of stabilityai/stable-codec-speech-16k have a licence of their
own that has to be accepted on the hub.
"""

import math
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.checkpoint import read_safetensors
from ..focalcodec.parts import build_part
from .adapter import _REMEMBERED, CodecAdapter, CodecConfig, register_model
from .official import find_weights, fold_weight_norm, load_native, read_config
from .residual_fsq import PRESETS, ResidualFSQ
from .taae import Decoder, Encoder, TAAEConfig

# File of the official config; its weights are model.safetensors.
CONFIG_NAME = "model_config.json"
# Parts of the official config: their only known type.
_TYPES = {"encoder": "taae", "decoder": "taae", "bottleneck": "dithered_fsq", "pretransform": "patched"}
# Inferred from the published numbers of parameters and operations; a checkpoint brings its own.
_DEFAULT = {"channels": 1024, "c_mults": [1, 1], "strides": [1, 2], "transformer_depths": [16, 12]}


class StableCodecConfig(PreTrainedConfig):
    """Configuration of a Stable Codec.

    Args:
        encoder, decoder: fields of `TAAEConfig`.
        sampling_rate: in Hz.
        patch_size: samples that become the channels of one frame before the encoder.
        latent_dim: dimensions of a latent vector.
        native_levels: levels of the quantiser that the model was trained with.
        stages: (levels, scale) of each codebook of the residual quantiser in use; by default 2 x 15625 codes,
            700 bit/s at 25 Hz, as in the FocalCodec paper.

    Raises:
        ValueError: an unknown or contradictory field.
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
        self.encoder = dict(_DEFAULT if self.encoder is None else self.encoder)
        self.decoder = dict(_DEFAULT if self.decoder is None else self.decoder)
        chosen = PRESETS["2x15625_700bps"] if self.stages is None else self.stages
        self.stages = [list(stage) for stage in chosen]
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
        """The residual quantiser of `stages`."""
        assert self.stages is not None
        return ResidualFSQ(self.latent_dim, tuple((int(levels), float(scale)) for levels, scale in self.stages))


class StableCodecModel(PreTrainedModel):
    """Patches -> transformers -> tanh and residual FSQ -> transformers -> patches, without padding masks."""

    config_class = StableCodecConfig
    main_input_name = "waveform"
    base_model_prefix = ""

    def __init__(self, config: StableCodecConfig) -> None:
        super().__init__(config)
        self.quantizer = config.quantizer
        self.encoder = Encoder(config.encoder_config, config.patch_size, config.latent_dim)
        self.decoder = Decoder(config.decoder_config, config.patch_size, config.latent_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: constructors do it, and loading is strict, so that no weight is left to be drawn."""

    def extract_latents(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> continuous latents before tanh (B, latent_dim, N), N = ceil(T / samples_per_token)."""
        c = self.config
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % c.samples_per_token))
        return self.encoder(waveform.flatten(1).unflatten(1, (-1, c.patch_size)).mT)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> codes (B, K, N) int64 of all stages."""
        return self.quantizer.to_codes(self.extract_latents(waveform))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, N) of all stages, or of the first of them, -> (B, 1, N * samples_per_token)."""
        patches = self.decoder(self.quantizer.to_vectors(codes).to(self.dtype))
        return patches.mT.flatten(1)[:, None]


register_model(StableCodecModel)


class StableCodec(CodecAdapter):
    """All stages of the chosen preset by default.

    Attention is the sliding window of the definition, in float32. The official package computes it in float16 on a GPU
    (a few codes may differ), and on a CPU without the window. Audio is encoded as loud as it is; the official package
    brings files, but not tensors, to -20 LUFS.
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
            preset: `"1x46656_400bps"`, `"2x15625_700bps"`, `"4x729_1000bps"`, or `"native"`, the single codebook that
                the model was trained with (24 million codes); by default that of the folder, or else the second.
            kwargs: as in transformers; float32 unless `dtype` is given.

        Raises:
            OSError: nothing there, or no safetensors weights.
            ValueError: an unknown preset, damaged weights, or a key that is missing, left over or of another shape.
        """
        if preset not in (None, "native", *PRESETS):
            raise ValueError(f"preset must be one of {[*PRESETS, 'native']}, found {preset!r}")
        config = {} if read_config(source, kwargs) else read_config(source, kwargs, CONFIG_NAME)
        official = None
        if config:
            tensors = read_safetensors(find_weights(source, kwargs))
            official = StableCodecConfig(**convert_config(config)), fold_weight_norm(tensors)
        model = load_native(cls.model_class, source, official, kwargs)
        if preset is not None:
            stages = ((model.config.native_levels, 1.0),) if preset == "native" else PRESETS[preset]
            model.config.stages = [list(stage) for stage in stages]
            model.quantizer = model.config.quantizer
            setattr(model.config, _REMEMBERED, None)  # it counted other codebooks
        return cls(model, num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """(codebook_size, latent_dim) for each codebook in use; their sum is what the decoder sees."""
        return self.model.quantizer.tables()[: self.config.num_quantizers]

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return len(config.stages), len(config.stages)

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        size = config.quantizer.codebook_size
        return CodecConfig(config.sampling_rate, config.samples_per_token, size, num_codebooks)


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config has the official schema, which is that of stable-audio-tools."""
    parts = config.get("model")
    return config.get("model_type") == "autoencoder" and isinstance(parts, dict) and "bottleneck" in parts


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Official config -> keyword arguments of `StableCodecConfig`; keys that change no result are dropped.

    Raises:
        ValueError: another autoencoder of the same tools, or parts that contradict each other.
    """
    if not is_official(config):
        raise ValueError(f"{CONFIG_NAME} does not describe a Stable Codec: its keys are {sorted(config)[:10]}")
    parts = config["model"]
    kinds = {part: (parts.get(part) or {}).get("type") for part in _TYPES}
    if kinds != _TYPES:
        raise ValueError(f"the parts of a Stable Codec are {_TYPES}, found {kinds}")
    encoder, decoder, bottleneck, patches = (parts[part].get("config", {}) for part in _TYPES)
    known = set(TAAEConfig.__dataclass_fields__)
    latent_dim, patch_size = bottleneck.get("dim"), patches.get("patch_size")
    widths = [(encoder, "in_channels", patch_size), (decoder, "out_channels", patch_size)]
    widths += [(encoder, "latent_dim", latent_dim), (decoder, "latent_dim", latent_dim), (patches, "channels", 1)]
    wrong = [f"{key} is {part.get(key)} instead of {value}" for part, key, value in widths if part.get(key) != value]
    levels = bottleneck.get("levels")
    native = {levels} if isinstance(levels, int) else set(levels or ())
    if len(native) != 1 or bottleneck.get("num_codebooks", 1) != 1:
        wrong.append(f"bottleneck {bottleneck} is not one codebook with the same levels in each dimension")
    if wrong:
        raise ValueError("this Stable Codec is not known here: " + "; ".join(wrong))
    return {
        "encoder": {key: value for key, value in encoder.items() if key in known},
        "decoder": {key: value for key, value in decoder.items() if key in known},
        "sampling_rate": config["sample_rate"],
        "patch_size": patch_size,
        "latent_dim": latent_dim,
        "native_levels": native.pop(),
    }
