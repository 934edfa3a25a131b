"""WavLM6-KM, the discrete WavLM codec of the FocalCodec paper (arXiv 2502.04465): WavLM features, k-means, HiFi-GAN.

B batch, T samples, N frames, D width of the features, K codebooks: one for each of the WavLM layers in use (the paper's
model has the sixth alone). The encoder is Microsoft's WavLM-large; the rest was published as `discrete-wavlm-codec`.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.blocks import ConformerBlock
from ..focalcodec.decoders import HiFiGAN
from ..focalcodec.layers import full_precision, length_mask
from ..focalcodec.parts import HiFiGANConfig, WavLMConfig, build_part
from ..focalcodec.wavlm import WavLMEncoder
from ..long_audio import decode_long
from .adapter import CodecAdapter, CodecConfig, register_model
from .kmeans import KMeansQuantizer
from .official import load_native, read_config
from .wavlm_km_official import convert_config, convert_state_dict, is_official, published_layers, read_tensors
from .wavlm_large import find_wavlm

# WavLM-large up to the layer that is used: fields of `WavLMConfig`, without the number of layers.
_WAVLM_LARGE = {
    "hidden_dims": (512,) * 7,
    "kernel_sizes": (10, 3, 3, 3, 3, 2, 2),
    "strides": (5, 2, 2, 2, 2, 2, 2),
    "dim": 1024,
    "ffn_dim": 4096,
    "num_heads": 16,
}
_MIN_FRAMES = 4  # the vocoder's first convolution reflects 3 frames about the first one
_LAST_SLOPE = 0.01  # of the vocoder's last leaky ReLU


class WavLMKMConfig(PreTrainedConfig):
    """Configuration of a WavLM-KM codec; the defaults are those of the published model of layer 6.

    Args:
        layer_ids: the WavLM layers whose outputs are quantised, in rising order; 1 is the first.
        encoder: fields of `WavLMConfig` without `num_layers`; by default WavLM-large's.
        decoder_only: whether the WavLM is absent, so that nothing but codes and features can be decoded.
        normalize: whether WavLM gets waveforms of mean 0 and variance 1.
        num_features: D.
        num_clusters: codes of one codebook.
        dim, num_layers, num_heads, ffn_dim, kernel_size: of the Conformer between codebooks and vocoder.
        max_length: frames that it has positions for.
        vocoder_channels, vocoder_factors, vocoder_kernel_sizes, vocoder_dilations: as in `HiFiGANConfig`.
        sampling_rate: of input and output in Hz.

    Raises:
        ValueError: layers that do not rise from 1, or a WavLM that does not fit the rest.
    """

    model_type = "focallm_wavlm_km"

    layer_ids: list[int] | tuple[int, ...] = (6,)
    encoder: dict[str, Any] | None = None
    decoder_only: bool = False
    normalize: bool = True
    num_features: int = 1024
    num_clusters: int = 512
    dim: int = 512
    num_layers: int = 6
    num_heads: int = 4
    ffn_dim: int = 512
    kernel_size: int = 31
    max_length: int = 2000
    vocoder_channels: int = 512
    vocoder_factors: list[int] | tuple[int, ...] = (10, 8, 2, 2)
    vocoder_kernel_sizes: list[int] | tuple[int, ...] = (3, 7, 11)
    vocoder_dilations: list[int] | tuple[int, ...] = (1, 3, 5)
    sampling_rate: int = 16000

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder = dict(_WAVLM_LARGE) if self.encoder is None else self.encoder
        if not self.layer_ids or list(self.layer_ids) != sorted({i for i in self.layer_ids if i > 0}):
            raise ValueError(f"layer_ids must rise, from 1 or more, found {self.layer_ids}")
        facts = self.encoder["dim"], math.prod(self.encoder["strides"])
        if not self.decoder_only and facts != (self.num_features, self.hop_length):
            raise ValueError(
                f"the WavLM has {facts[0]} features every {facts[1]} samples, but the codec takes "
                f"{self.num_features} every {self.hop_length}: it belongs to another model"
            )
        super().__post_init__(**kwargs)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.vocoder_factors)

    @property
    def receptive_field(self) -> int:
        """Samples that WavLM needs for one frame (400)."""
        assert self.encoder is not None
        size = 1
        for kernel, stride in reversed([*zip(self.encoder["kernel_sizes"], self.encoder["strides"], strict=True)]):
            size = (size - 1) * stride + kernel
        return size


class WavLMKMModel(PreTrainedModel):
    """WavLM -> nearest cluster -> Conformer that regresses the features from it -> HiFi-GAN."""

    config_class = WavLMKMConfig
    main_input_name = "input_values"
    base_model_prefix = ""

    def __init__(self, config: WavLMKMConfig) -> None:
        super().__init__(config)
        self.encoder = None
        if not config.decoder_only:
            assert config.encoder is not None
            fields: dict[str, Any] = config.encoder | {"num_layers": max(config.layer_ids)}
            self.encoder = WavLMEncoder(build_part("encoder", fields, WavLMConfig))
        self.quantizer = KMeansQuantizer(len(config.layer_ids), config.num_clusters, config.num_features)
        self.dequantizer = Dequantizer(config)
        self.vocoder = Vocoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: constructors do it, and loading is strict, so that no weight is left to be drawn."""

    @full_precision
    def extract_features(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> outputs of the WavLM layers in use, (B, N, D, K), N = (T - 400) // 320 + 1.

        Raises:
            ValueError: fewer than 400 samples, or weights without a WavLM.
        """
        c, x = self.config, waveform[:, 0]
        if self.encoder is None:
            raise ValueError(
                f"{c.name_or_path or 'this codec'} can only decode, it was loaded without a WavLM: put WavLM-large "
                "(microsoft/wavlm-large), as config.json and model.safetensors, into a folder wavlm-large beside the "
                "codec's own files"
            )
        if x.shape[1] < c.receptive_field:
            raise ValueError(f"the audio must have at least {c.receptive_field} samples, found {x.shape[1]}: pad it")
        if c.normalize:
            x = F.layer_norm(x, x.shape[1:])
        states = enumerate(self.encoder.hidden_states(x))
        return torch.stack([state for i, state in states if i in c.layer_ids], dim=-1)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> codes (B, K, N) int64; see `extract_features`."""
        return self.quantizer.encode(self.extract_features(waveform))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, N) -> waveform (B, 1, 320 N) in (-1, 1), for 4 <= N <= `max_length`."""
        return self.vocoder(self.dequantizer(self.quantizer.decode(codes)))


class Dequantizer(nn.Module):
    """Centroids (B, N, D, K) -> features (B, N, D, K): a Conformer that knows absolute positions."""

    positions: Tensor

    def __init__(self, config: WavLMKMConfig) -> None:
        super().__init__()
        c, books = config, len(config.layer_ids)
        self.frontend = nn.Linear(books, 1)
        self.in_proj = nn.Linear(c.num_features, c.dim)
        self.register_buffer("positions", _sinusoids(c.max_length, c.dim)[None])
        self.layers: Iterable[ConformerBlock] = nn.ModuleList(  # type: ignore[assignment]
            ConformerBlock(c.dim, c.ffn_dim, c.num_heads, c.kernel_size, rotary=False) for _ in range(c.num_layers)
        )
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.head = nn.Linear(c.dim, c.num_features)
        self.backend = nn.Linear(1, books)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, N, D, K), lengths (B,) in frames -> (B, N, D, K); real frames do not depend on the padding.

        Raises:
            ValueError: more frames than there are positions.
        """
        frames, most = x.shape[1], self.positions.shape[1]
        if frames > most:
            raise ValueError(f"the dequantizer has positions for {most} frames, found {frames}: decode in pieces")
        mask = None if lengths is None else length_mask(lengths, frames)
        x = self.in_proj(self.frontend(x)[..., 0]) + self.positions[:, :frames]
        for layer in self.layers:
            x = layer(x, mask)
        return self.backend(self.head(self.norm(x))[..., None])


class Vocoder(nn.Module):
    """Features (B, N, D, K) -> waveform (B, 1, 320 N)."""

    def __init__(self, config: WavLMKMConfig) -> None:
        super().__init__()
        c = config
        sizes = HiFiGANConfig(
            input_dim=c.num_features,
            channels=c.vocoder_channels,
            factors=tuple(c.vocoder_factors),
            kernel_sizes=tuple(c.vocoder_kernel_sizes),
            dilations=tuple(c.vocoder_dilations),
        )
        self.in_proj = nn.Linear(len(c.layer_ids), 1)
        self.generator = HiFiGAN(sizes, "reflect", _LAST_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D, K) -> (B, 1, 320 N)

        Raises:
            ValueError: fewer than 4 frames.
        """
        if x.shape[1] < _MIN_FRAMES:
            raise ValueError(
                f"the vocoder mirrors its input at both ends, which takes {_MIN_FRAMES} frames, found {x.shape[1]}: "
                "encode at least 1360 samples (85 ms)"
            )
        return self.generator(self.in_proj(x)[..., 0])[:, None]


def _sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim) absolute positions: sines in even channels, cosines in odd ones (Vaswani et al., 2017)."""
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


register_model(WavLMKMModel)


class WavLMKM(CodecAdapter):
    """One codebook (450 bit/s), or three that only go together.

    Frames are those of WavLM without padding, so that up to 399 samples at the end of an item reach no code.
    """

    model_class = WavLMKMModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "WavLMKM":
        """Load a folder or hub id: what `save_pretrained` wrote, or the published files.

        These are quantizer_6, dequantizer_6 and vocoder_6.safetensors (or `*_1-3-6`: `num_codebooks=3`), or all in
        model.safetensors with the prefixes `quantizer.`, `dequantizer.` and `vocoder.`; a config.json if the sizes are
        not the published ones; and WavLM-large of transformers in a folder wavlm-large beside them, or else from the
        hub. Where no WavLM is found, the codec can only decode.

        Raises:
            OSError: no safetensors weights; pickled ones are never loaded.
            ValueError: damaged weights, or a key is missing, left over or of another shape.
        """
        config, official = read_config(source, kwargs), None
        if config.get("model_type") != WavLMKMConfig.model_type:
            official = _read_official(source, config, num_codebooks, kwargs)
        return cls(load_native(cls.model_class, source, official, kwargs), num_codebooks)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Number of frames for a number of samples: (T - 400) // 320 + 1, none for less than 400."""
        c = self.model.config
        beyond = torch.as_tensor(num_samples) - c.receptive_field
        return (beyond // c.hop_length + 1).clamp(min=0)

    def code_vectors(self) -> list[Tensor]:
        """The centroids, (clusters, D) of each codebook."""
        return [kmeans.table().float() for kmeans in self.model.quantizer.kmeanss]

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return len(config.layer_ids), len(config.layer_ids)

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        if num_codebooks != len(config.layer_ids):
            raise ValueError(
                f"the {len(config.layer_ids)} codebooks of this WavLM-KM are decoded together, found "
                f"num_codebooks={num_codebooks}"
            )
        return CodecConfig(config.sampling_rate, config.hop_length, config.num_clusters, num_codebooks)

    def _decode_one(self, codes: Tensor) -> Tensor:
        """In pieces where there are no positions for so many frames: context and piece are a quarter of them."""
        most = self.model.config.max_length
        if codes.shape[-1] <= most:
            return self.model.decode(codes)
        quarter = most / 4 / self.config.frame_rate
        return decode_long(self, codes, window_s=quarter, context_s=quarter).to(codes.device)


def _read_official(
    source: str | Path, config: dict[str, Any], num_codebooks: int | None, kwargs: dict[str, Any]
) -> tuple[WavLMKMConfig, dict[str, Tensor]]:
    """The published files -> our config and tensors."""
    if config and not is_official(config):
        raise ValueError(f"{source} holds no WavLM-KM: its config.json has the keys {sorted(config)[:10]}")
    fields = convert_config(config) or {"layer_ids": published_layers(source, num_codebooks, kwargs) or (6,)}
    tensors = read_tensors(source, fields["layer_ids"], kwargs)
    width = fields.get("num_features", WavLMKMConfig.num_features)
    wavlm = find_wavlm(source, max(fields["layer_ids"]), width, kwargs)
    encoder: dict[str, Tensor] = {}
    if wavlm is None:
        fields["decoder_only"] = True
    else:
        fields["encoder"], fields["normalize"], encoder = wavlm
    ours = WavLMKMConfig(**fields)
    with torch.device("meta"):
        expected = WavLMKMModel(ours).state_dict()
    return ours, convert_state_dict(tensors, expected, source) | encoder
