"""WavLM6-KM, the discrete WavLM codec of the FocalCodec paper (arXiv 2502.04465): WavLM features, k-means, HiFi-GAN.

The encoder is Microsoft's WavLM-large. The rest was published as `discrete-wavlm-codec`.

B batch, T samples, N frames, D feature width, V clusters, K codebooks: one for each of the WavLM layers in use (the
paper's model only uses the sixth).
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..focalcodec.blocks import ConformerBlock
from ..focalcodec.checkpoint import read_config
from ..focalcodec.decoders import HiFiGAN
from ..focalcodec.layers import full_precision, length_mask
from ..focalcodec.parts import HiFiGANConfig, WavLMConfig, build_part
from ..focalcodec.wavlm import WavLMEncoder
from ..long_audio import decode_long
from .adapter import CodecAdapter, CodecConfig, NativeModel, register_model
from .checkpoint import load_native
from .wavlm_km_checkpoint import (
    convert_config,
    convert_state_dict,
    find_published_layers,
    find_wavlm,
    is_official,
    read_tensors,
)

# WavLM-large: fields of `WavLMConfig`, without the number of layers.
_WAVLM_LARGE = {
    "hidden_dims": (512,) * 7,
    "kernel_sizes": (10, 3, 3, 3, 3, 2, 2),
    "strides": (5, 2, 2, 2, 2, 2, 2),
    "dim": 1024,
    "ffn_dim": 4096,
    "num_heads": 16,
}
_MIN_FRAMES = 4  # the first convolution of the vocoder reflects 3 frames about the first one
_LAST_SLOPE = 0.01  # of the last leaky ReLU of the vocoder


@strict
class WavLMKMConfig(PreTrainedConfig):
    """Configuration of a WavLM-KM codec; the defaults are those of the published model of layer 6.

    Args:
        layer_ids: the WavLM layers whose outputs are quantized, in rising order; 1 is the first.
        encoder: fields of `WavLMConfig` without `num_layers`; by default those of WavLM-large.
        decoder_only: whether there is no WavLM, so that the codec can only decode.
        normalize: whether the input of WavLM is normalized to mean 0 and variance 1.
        num_features: D.
        num_clusters: V, codes of one codebook.
        dim: width of the Conformer between codebooks and vocoder.
        num_layers: of the Conformer.
        num_heads: of the Conformer.
        ffn_dim: of the Conformer.
        kernel_size: of the Conformer.
        max_length: frames for which the Conformer has positions.
        vocoder_channels: as in `HiFiGANConfig`.
        vocoder_factors: as in `HiFiGANConfig`.
        vocoder_kernel_sizes: as in `HiFiGANConfig`.
        vocoder_dilations: as in `HiFiGANConfig`.
        sampling_rate: of input and output in Hz.

    Raises:
        ValueError: Layers that do not rise from 1, or a WavLM that does not fit the rest.
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
        layers = list(self.layer_ids)
        if not layers or layers != sorted(set(layers)) or layers[0] < 1:
            raise ValueError(f"layer_ids must rise, from 1 or more, found {self.layer_ids}")
        width = self.encoder["dim"]
        hop_length = math.prod(self.encoder["strides"])
        if not self.decoder_only and (width, hop_length) != (self.num_features, self.hop_length):
            raise ValueError(
                f"the WavLM has {width} features every {hop_length} samples, but the codec takes "
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
        kernel_sizes = self.encoder["kernel_sizes"]
        strides = self.encoder["strides"]
        # From the last layer back to the waveform.
        size = 1
        for i in reversed(range(len(strides))):
            size = (size - 1) * strides[i] + kernel_sizes[i]
        return size


class WavLMKMModel(NativeModel):
    """WavLM -> nearest cluster -> Conformer, which estimates the features from it -> HiFi-GAN."""

    config_class = WavLMKMConfig

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

    @full_precision
    def extract_features(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> outputs of the WavLM layers in use, (B, N, D, K), N = (T - 400) // 320 + 1.

        Raises:
            ValueError: Fewer than 400 samples, or weights without a WavLM.
        """
        config = self.config
        x = waveform[:, 0]
        if self.encoder is None:
            raise ValueError(
                f"{config.name_or_path or 'this codec'} can only decode, it was loaded without a WavLM: put "
                "WavLM-large (microsoft/wavlm-large), as config.json and model.safetensors, into a folder wavlm-large "
                "beside the codec's own files"
            )
        if x.shape[1] < config.receptive_field:
            raise ValueError(
                f"the audio must have at least {config.receptive_field} samples, found {x.shape[1]}: pad it"
            )
        if config.normalize:
            x = F.layer_norm(x, x.shape[1:])
        states = []
        for i, state in enumerate(self.encoder.hidden_states(x)):
            if i in config.layer_ids:
                states.append(state)
        return torch.stack(states, dim=-1)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> codes (B, K, N) int64; see `extract_features`."""
        return self.quantizer.encode(self.extract_features(waveform))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, N) -> waveform (B, 1, 320 N) in (-1, 1), for 4 <= N <= `max_length`."""
        return self.vocoder(self.dequantizer(self.quantizer.decode(codes)))


class KMeansQuantizer(nn.Module):
    """One k-means codebook for each WavLM layer in use."""

    def __init__(self, num_codebooks: int, num_clusters: int, dim: int) -> None:
        super().__init__()
        self.kmeanss: Iterable[KMeans] = nn.ModuleList(  # type: ignore[assignment]
            KMeans(num_clusters, dim) for _ in range(num_codebooks)
        )

    @full_precision
    def encode(self, features: Tensor) -> Tensor:
        """(B, N, D, K) -> (B, K, N) int64"""
        codes = []
        for kmeans, layer_features in zip(self.kmeanss, features.unbind(-1), strict=True):
            codes.append(kmeans.encode(layer_features))
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, N) -> (B, N, D, K)"""
        features = []
        for kmeans, layer_codes in zip(self.kmeanss, codes.unbind(1), strict=True):
            features.append(F.embedding(layer_codes, kmeans.table()))
        return torch.stack(features, dim=-1)


class KMeans(nn.Module):
    """The centroids (V, D) of the clusters of features."""

    centroids: Tensor

    def __init__(self, num_clusters: int, dim: int) -> None:
        super().__init__()
        # Infinity means that k-means was not fitted.
        self.register_buffer("centroids", torch.full((num_clusters, dim), torch.inf))

    def table(self) -> Tensor:
        """Return the centroids (V, D).

        Raises:
            ValueError: The clusters were not fitted.
        """
        num_unfitted = int((~self.centroids.isfinite().all(dim=1)).sum())
        if num_unfitted:
            raise ValueError(
                f"{num_unfitted} of {len(self.centroids)} clusters of the quantizer have no finite centroid: its "
                "k-means was never fitted, or its file is damaged; fetch quantizer_6.safetensors again"
            )
        return self.centroids

    def encode(self, x: Tensor) -> Tensor:
        """Find the nearest cluster, (B, N, D) -> (B, N) int64; the lowest of equally near ones."""
        table = self.table()
        squared = x.square().sum(-1, keepdim=True) + table.square().sum(-1) - 2 * x @ table.T
        # The square root is that of the reference: its rounding makes ties.
        return squared.clamp(min=0).sqrt().argmin(-1)


class Dequantizer(nn.Module):
    """A Conformer with absolute positions: centroids (B, N, D, K) -> features (B, N, D, K)."""

    positions: Tensor

    def __init__(self, config: WavLMKMConfig) -> None:
        super().__init__()
        K = len(config.layer_ids)
        self.frontend = nn.Linear(K, 1)
        self.in_proj = nn.Linear(config.num_features, config.dim)
        self.register_buffer("positions", _sinusoids(config.max_length, config.dim)[None])
        self.layers: Iterable[ConformerBlock] = nn.ModuleList(  # type: ignore[assignment]
            ConformerBlock(config.dim, config.ffn_dim, config.num_heads, config.kernel_size, rotary=False)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, config.num_features)
        self.backend = nn.Linear(1, K)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, N, D, K), lengths (B,) in frames -> (B, N, D, K). Real frames do not depend on the padding.

        Raises:
            ValueError: There are more frames than positions.
        """
        N = x.shape[1]
        max_length = self.positions.shape[1]
        if max_length < N:
            raise ValueError(f"the dequantizer has positions for {max_length} frames, found {N}: decode in pieces")
        mask = None if lengths is None else length_mask(lengths, N)
        x = self.in_proj(self.frontend(x)[..., 0]) + self.positions[:, :N]
        for layer in self.layers:
            x = layer(x, mask)
        return self.backend(self.head(self.norm(x))[..., None])


class Vocoder(nn.Module):
    """Features (B, N, D, K) -> waveform (B, 1, 320 N)."""

    def __init__(self, config: WavLMKMConfig) -> None:
        super().__init__()
        generator_config = HiFiGANConfig(
            input_dim=config.num_features,
            channels=config.vocoder_channels,
            factors=tuple(config.vocoder_factors),
            kernel_sizes=tuple(config.vocoder_kernel_sizes),
            dilations=tuple(config.vocoder_dilations),
        )
        self.in_proj = nn.Linear(len(config.layer_ids), 1)
        self.generator = HiFiGAN(generator_config, "reflect", _LAST_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D, K) -> (B, 1, 320 N)

        Raises:
            ValueError: Fewer than 4 frames.
        """
        if x.shape[1] < _MIN_FRAMES:
            raise ValueError(
                f"the vocoder mirrors its input at both ends, which takes {_MIN_FRAMES} frames, found {x.shape[1]}: "
                "encode at least 1360 samples (85 ms)"
            )
        return self.generator(self.in_proj(x)[..., 0])[:, None]


def _sinusoids(length: int, dim: int) -> Tensor:
    """Make absolute positions (length, dim): sines in even channels, cosines in odd ones (Vaswani et al., 2017)."""
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


register_model(WavLMKMModel)


class WavLMKM(CodecAdapter):
    """WavLM-KM with the methods of `FocalCodecModel`: one codebook (450 bit/s), or three that are used together.

    Frames are those of WavLM without padding. Up to 399 samples at the end of an item are therefore not encoded.
    """

    model_class = WavLMKMModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "WavLMKM":
        """Load a folder that `save_pretrained` wrote, or the published files.

        The published files are quantizer_6, dequantizer_6 and vocoder_6.safetensors (or `*_1-3-6`, with
        `num_codebooks=3`), or model.safetensors with the prefixes `quantizer.`, `dequantizer.` and `vocoder.`. There is
        a config.json if the sizes are not the published ones. WavLM-large in the layout of transformers is taken from
        a folder wavlm-large beside these files, or else from the hub. Without it the codec can only decode.

        Raises:
            OSError: There are no safetensors weights. Pickled ones are never loaded.
            ValueError: Damaged weights, or a key that is missing, left over or of another shape.
        """
        config = read_config(source, kwargs)
        official = None
        if config.get("model_type") != WavLMKMConfig.model_type:
            official = _read_official(source, config, num_codebooks, kwargs)
        return cls(load_native(WavLMKMModel, source, official, kwargs), num_codebooks)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Return the number of frames for a number of samples: (T - 400) // 320 + 1, none for less than 400."""
        config = self.model.config
        remaining = torch.as_tensor(num_samples) - config.receptive_field
        return (remaining // config.hop_length + 1).clamp(min=0)

    def code_vectors(self) -> list[Tensor]:
        """Return the centroids (V, D) of each codebook."""
        return [kmeans.table().float() for kmeans in self.model.quantizer.kmeanss]

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        return len(config.layer_ids), len(config.layer_ids)

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        if num_codebooks != len(config.layer_ids):
            raise ValueError(
                f"the {len(config.layer_ids)} codebooks of this WavLM-KM are decoded together, found "
                f"num_codebooks={num_codebooks}"
            )
        return CodecConfig(config.sampling_rate, config.hop_length, config.num_clusters, num_codebooks)

    def _decode_item(self, codes: Tensor) -> Tensor:
        max_length = self.model.config.max_length
        if codes.shape[-1] <= max_length:
            return self.model.decode(codes)
        # There are no positions for so many frames. A window and its context on each side are a quarter of them; the
        # last window is up to twice as long.
        quarter_s = max_length / 4 / self.config.frame_rate
        return decode_long(self, codes, window_s=quarter_s, context_s=quarter_s).to(codes.device)


def _read_official(
    source: str | Path, config: dict[str, Any], num_codebooks: int | None, kwargs: dict[str, Any]
) -> tuple[WavLMKMConfig, dict[str, Tensor]]:
    """Convert the published files to our config and tensors."""
    if config and not is_official(config):
        raise ValueError(f"{source} holds no WavLM-KM: its config.json has the keys {sorted(config)[:10]}")
    if config:
        fields = convert_config(config)
    else:
        fields = {"layer_ids": find_published_layers(source, num_codebooks, kwargs) or (6,)}
    tensors = read_tensors(source, fields["layer_ids"], kwargs)
    width = fields.get("num_features", WavLMKMConfig.num_features)
    wavlm = find_wavlm(source, max(fields["layer_ids"]), width, kwargs)
    encoder_tensors: dict[str, Tensor] = {}
    if wavlm is None:
        fields["decoder_only"] = True
    else:
        fields["encoder"], fields["normalize"], encoder_tensors = wavlm
    converted_config = WavLMKMConfig(**fields)
    # The meta device takes no memory: only the names and shapes of the tensors are needed.
    with torch.device("meta"):
        expected = WavLMKMModel(converted_config).state_dict()
    return converted_config, convert_state_dict(tensors, expected, source) | encoder_tensors
