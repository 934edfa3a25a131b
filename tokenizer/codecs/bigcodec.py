"""BigCodec (Xin et al., 2024, arXiv 2409.05377): 16 kHz speech <-> one stream of 8192 codes at 80 Hz.

B batch, T samples, N frames, C channels, D feature width; channels come before time. The names of modules are those of
the published checkpoint. Weight normalization is folded when a checkpoint is loaded.
"""

import math
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..focalcodec.blocks import low_pass
from ..focalcodec.checkpoint import read_config, read_safetensors
from ..focalcodec.layers import full_precision
from ..hub import find_file
from .adapter import CodecAdapter, CodecConfig, NativeModel, register_model
from .checkpoint import fold_weight_norm, load_native
from .layers import SnakeBeta

# Options of the official config that are the same in all released checkpoints: (section, key, value).
_FIXED_OPTIONS = (
    ("codec_encoder", "use_rnn", True),
    ("codec_encoder", "rnn_bidirectional", False),
    ("codec_decoder", "use_rnn", True),
    ("codec_decoder", "rnn_bidirectional", False),
    ("codec_decoder", "vq_num_quantizers", 1),
)
# Keys of the encoder, and the keys of the decoder that must have the same value.
_SHARED_OPTIONS = (
    ("dilations", "dilations"),
    ("rnn_num_layers", "rnn_num_layers"),
    ("out_channels", "in_channels"),
    ("out_channels", "vq_dim"),
)
# Other parts of the training checkpoint, which a conversion may have kept.
_UNUSED_PREFIXES = ("discriminator.", "spec_discriminator.")
_WEIGHTS_NAMES = ("model.safetensors", "bigcodec.safetensors")


@strict
class BigCodecConfig(PreTrainedConfig):
    """Configuration of a BigCodec; the defaults are those of the published model.

    Args:
        encoder_channels: C after the encoder's first convolution; each of its stages doubles it.
        decoder_channels: C after the decoder's first convolution; each of its stages halves it.
        ratios: factors by which the encoder's stages shorten the signal; the decoder has them in reverse.
        dilations: of the residual units of a stage.
        feature_dim: D between encoder and quantizer, and between quantizer and decoder.
        lstm_layers: number of layers of each LSTM.
        codebook_size: number of codes.
        codebook_dim: width of the vector of a code.
        sampling_rate: of input and output in Hz.
    """

    model_type = "focallm_bigcodec"

    encoder_channels: int = 48
    decoder_channels: int = 1536
    ratios: list[int] | tuple[int, ...] = (2, 2, 2, 5, 5)
    dilations: list[int] | tuple[int, ...] = (1, 3, 9)
    feature_dim: int = 1024
    lstm_layers: int = 2
    codebook_size: int = 8192
    codebook_dim: int = 8
    sampling_rate: int = 16000

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.ratios)


class BigCodecModel(NativeModel):
    """Convolutions and an LSTM on either side of one codebook that is searched by cosine similarity."""

    config_class = BigCodecConfig

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__(config)
        self.CodecEnc = Encoder(config)
        self.generator = Generator(config)
        self.post_init()

    @full_precision
    def extract_features(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> (B, D, (T + 48) // 200), without padding to whole frames; at least 152 samples."""
        return self.CodecEnc.block(waveform)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> codes (B, 1, N); zeros fill up the last frame, so that N = ceil(T / 200)."""
        # The published script also appends a frame of zeros to whole frames. That would be a token without audio.
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.hop_length))
        return self.generator.quantizer.encode(self.extract_features(waveform))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, 1, N) -> waveform (B, 1, 200 N) in (-1, 1)"""
        return self.generator.model(self.generator.quantizer.decode(codes))


class Encoder(nn.Module):
    """(B, 1, T) -> (B, D, N)"""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        dim = config.encoder_channels
        layers: list[nn.Module] = [nn.Conv1d(1, dim, 7, padding=3)]
        for ratio in config.ratios:
            layers.append(DownStage(dim, ratio, config.dilations))
            dim *= 2
        layers.append(ResidualLSTM(dim, config.lstm_layers))
        layers.append(AntiAliasedSnake(dim))
        layers.append(nn.Conv1d(dim, config.feature_dim, 3, padding=1))
        self.block = nn.Sequential(*layers)


class Generator(nn.Module):
    """Quantizer and decoder: codes (B, 1, N) -> (B, 1, 200 N)."""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        self.quantizer = Quantizer(config)
        dim = config.decoder_channels
        layers: list[nn.Module] = [
            nn.Conv1d(config.feature_dim, dim, 7, padding=3),
            ResidualLSTM(dim, config.lstm_layers),
        ]
        for ratio in reversed(config.ratios):
            layers.append(UpStage(dim, ratio, config.dilations))
            dim //= 2
        layers.append(AntiAliasedSnake(dim))
        layers.append(nn.Conv1d(dim, 1, 7, padding=3))
        layers.append(nn.Tanh())
        self.model = nn.Sequential(*layers)


class Quantizer(nn.Module):
    """Features (B, D, N) <-> codes (B, 1, N), with one codebook."""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        # The checkpoint has a list of codebooks, with one entry.
        self.layers: Any = nn.ModuleList([Codebook(config)])

    def encode(self, features: Tensor) -> Tensor:
        """(B, D, N) -> (B, 1, N)"""
        return self.layers[0].encode(features.mT)[:, None]

    def decode(self, codes: Tensor) -> Tensor:
        """(B, 1, N) -> (B, D, N)"""
        return self.layers[0].decode(codes[:, 0]).mT

    def table(self) -> Tensor:
        """Return the vectors of the codes, (codebook_size, codebook_dim)."""
        return self.layers[0]._codebook.weight


class Codebook(nn.Module):
    """Vectors of few dimensions, compared by cosine (Yu et al., 2021, arXiv 2110.04627) and decoded as they are."""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.feature_dim, config.codebook_dim)
        self.out_proj = nn.Linear(config.codebook_dim, config.feature_dim)
        self._codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def encode(self, features: Tensor) -> Tensor:
        """(B, N, D) -> (B, N)"""
        directions = F.normalize(self._codebook.weight, dim=-1)
        return (F.normalize(self.in_proj(features), dim=-1) @ directions.mT).argmax(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) -> (B, N, D)"""
        return self.out_proj(self._codebook(codes))


class DownStage(nn.Module):
    """(B, C, T) -> (B, 2 C, about T / ratio)"""

    def __init__(self, dim: int, ratio: int, dilations: list[int] | tuple[int, ...]) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(dim, dilation) for dilation in dilations),
            AntiAliasedSnake(dim),
            nn.Conv1d(dim, 2 * dim, 2 * ratio, ratio, padding=(ratio + 1) // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, 2 C, T')"""
        return self.block(x)


class UpStage(nn.Module):
    """(B, C, T) -> (B, C / 2, T * ratio)"""

    def __init__(self, dim: int, ratio: int, dilations: list[int] | tuple[int, ...]) -> None:
        super().__init__()
        half = dim // 2
        # An odd ratio needs a sample of output padding to give exactly T * ratio samples.
        padding = (ratio + 1) // 2
        self.block = nn.Sequential(
            AntiAliasedSnake(dim),
            nn.ConvTranspose1d(dim, half, 2 * ratio, ratio, padding=padding, output_padding=ratio % 2),
            *(ResidualUnit(half, dilation) for dilation in dilations),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C / 2, T * ratio)"""
        return self.block(x)


class ResidualUnit(nn.Module):
    """A dilated and a pointwise convolution, each after an activation, with a residual connection."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            AntiAliasedSnake(dim),
            nn.Conv1d(dim, dim, 7, padding=3 * dilation, dilation=dilation),
            AntiAliasedSnake(dim),
            nn.Conv1d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        return x + self.block(x)


class ResidualLSTM(nn.Module):
    """A forward LSTM with a residual connection."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)"""
        return x + self.lstm(x.mT)[0].mT


class AntiAliasedSnake(nn.Module):
    """SnakeBeta at twice the rate, so that new harmonics are filtered out instead of being aliased."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act = SnakeBeta(dim)
        self.upsample = Filter()
        self.downsample: Any = nn.ModuleDict({"lowpass": Filter()})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        channels = x.shape[1]
        up = self.upsample.filter
        down = self.downsample["lowpass"].filter
        pad = up.shape[-1] // 2 - 1
        x = F.pad(x, (pad, pad), mode="replicate")
        # The padding of the transposed convolution cuts off the filter's run-in and the replicas: exactly 2 T are left.
        x = F.conv_transpose1d(x, 2 * up.expand(channels, 1, -1), stride=2, padding=3 * pad, groups=channels)
        x = F.pad(self.act(x), (pad, pad + 1), mode="replicate")
        return F.conv1d(x, down.expand(channels, 1, -1), stride=2, groups=channels)


class Filter(nn.Module):
    """The half-band filter (1, 1, 12), a constant that the checkpoint stores with every activation."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass()[None, None])


register_model(BigCodecModel)


class BigCodec(CodecAdapter):
    """BigCodec with the methods of `FocalCodecModel`."""

    model_class = BigCodecModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "BigCodec":
        """Load a folder that `save_pretrained` wrote, or the published weights after a conversion to safetensors.

        The latter have the keys `CodecEnc.*` and `generator.*` in model.safetensors or bigcodec.safetensors. The
        config.json beside them is that of the reference; without one the model has the published sizes.

        Raises:
            OSError: There are no safetensors weights. Pickled ones are never loaded.
            ValueError: Another codec, damaged weights, or a key that is missing, left over or of another shape.
        """
        config = read_config(source, kwargs)
        if config.get("model_type") == BigCodecConfig.model_type:
            return cls(load_native(BigCodecModel, source, None, kwargs), num_codebooks)
        if config and not is_official(config):
            raise ValueError(f"{source} holds no BigCodec: its config.json has the keys {sorted(config)[:10]}")
        tensors = {}
        for key, tensor in read_safetensors(_find_weights(source, kwargs)).items():
            if not key.startswith(_UNUSED_PREFIXES):
                tensors[key] = tensor
        official = (convert_config(config), fold_weight_norm(tensors))
        return cls(load_native(BigCodecModel, source, official, kwargs), num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """Return [(codebook_size, codebook_dim)], float32."""
        return [self.model.generator.quantizer.table().detach().float()]

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.hop_length, config.codebook_size, num_codebooks)


def _find_weights(source: str | Path, kwargs: dict[str, Any]) -> Path:
    for name in _WEIGHTS_NAMES:
        path = find_file(source, name, kwargs)
        if path is not None:
            return path
    raise OSError(
        f"{source} holds neither of {_WEIGHTS_NAMES}; the published bigcodec.pt is a pickle, which is never loaded: "
        "convert it with state = torch.load('bigcodec.pt', weights_only=True); safetensors.torch.save_file("
        "{f'{part}.{key}': tensor.clone() for part in ('CodecEnc', 'generator') for key, tensor in "
        "state[part].items()}, 'bigcodec.safetensors')"
    )


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config.json is that of the reference, with sections for encoder and decoder."""
    return {"codec_encoder", "codec_decoder"} <= config.keys()


def convert_config(config: dict[str, Any]) -> BigCodecConfig:
    """Convert the config of the reference; an empty one stands for the published sizes.

    Raises:
        ValueError: An option that the published model does not use, or an encoder and a decoder that do not fit.
    """
    if not config:
        return BigCodecConfig()
    encoder = config["codec_encoder"]
    decoder = config["codec_decoder"]
    for section, key, value in _FIXED_OPTIONS:
        if config[section].get(key, value) != value:
            raise ValueError(f"{section}.{key} is {config[section][key]}; only {value} is known")
    problems = []
    reversed_ratios = decoder["up_ratios"][::-1]
    if encoder["up_ratios"] != reversed_ratios:
        problems.append(
            f"codec_encoder.up_ratios is {encoder['up_ratios']} but codec_decoder.up_ratios is {reversed_ratios} in "
            "reverse"
        )
    for encoder_key, decoder_key in _SHARED_OPTIONS:
        if encoder[encoder_key] != decoder[decoder_key]:
            problems.append(
                f"codec_encoder.{encoder_key} is {encoder[encoder_key]} but codec_decoder.{decoder_key} is "
                f"{decoder[decoder_key]}"
            )
    if problems:
        raise ValueError("the encoder and the decoder of this BigCodec do not fit: " + "; ".join(problems))
    return BigCodecConfig(
        encoder_channels=encoder["ngf"],
        decoder_channels=decoder["upsample_initial_channel"],
        ratios=encoder["up_ratios"],
        dilations=encoder["dilations"],
        feature_dim=encoder["out_channels"],
        lstm_layers=encoder["rnn_num_layers"],
        codebook_size=decoder["codebook_size"],
        codebook_dim=decoder["codebook_dim"],
    )
