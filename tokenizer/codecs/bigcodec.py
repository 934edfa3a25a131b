"""BigCodec (Xin et al., 2024, arXiv 2409.05377): 16 kHz speech <-> one stream of 8192 codes at 80 Hz.

B batch, T samples, N frames, C channels, D feature width; channels come before time. Names of modules are those of the
published checkpoint, weight normalisation is folded.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.blocks import low_pass
from ..focalcodec.checkpoint import read_safetensors
from ..focalcodec.layers import full_precision
from .adapter import CodecAdapter, CodecConfig, register_model
from .official import find_file, fold_weight_norm, load_native, read_config
from .snake import SnakeBeta

# What no released checkpoint has otherwise, of the official config: (section, key, value).
_FIXED = (
    ("codec_encoder", "use_rnn", True),
    ("codec_encoder", "rnn_bidirectional", False),
    ("codec_decoder", "use_rnn", True),
    ("codec_decoder", "rnn_bidirectional", False),
    ("codec_decoder", "vq_num_quantizers", 1),
)
# The training module's other entries, if someone converted them along.
_DROPPED = ("discriminator.", "spec_discriminator.")
_WEIGHTS = ("model.safetensors", "bigcodec.safetensors")


class BigCodecConfig(PreTrainedConfig):
    """Configuration of a BigCodec; the defaults are those of the published model.

    Args:
        encoder_channels: C of the first convolution; each stage of the encoder doubles it.
        decoder_channels: C after the decoder's first convolution; each of its stages halves it.
        ratios: down-scalings of the encoder; the decoder has them in reverse.
        dilations: of the residual units of a stage.
        feature_dim: D between encoder and quantiser, and between quantiser and decoder.
        lstm_layers: layers of both LSTMs.
        codebook_size: number of codes.
        codebook_dim: width of a code's vector.
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


class BigCodecModel(PreTrainedModel):
    """Convolutions and an LSTM on both sides of one codebook that is searched by cosine."""

    config_class = BigCodecConfig
    main_input_name = "input_values"

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__(config)
        self.CodecEnc = Encoder(config)
        self.generator = Generator(config)
        self.post_init()

    @full_precision
    def extract_features(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> (B, D, (T + 48) // 200), with no padding to whole frames; at least 152 samples."""
        return self.CodecEnc.block(waveform)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> codes (B, 1, N); zeros fill up the last frame, so that N = ceil(T / 200).

        The published script appends a whole frame of zeros to what needs no filling up.
        """
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.hop_length))
        return self.generator.quantizer.encode(self.extract_features(waveform))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, 1, N) -> waveform (B, 1, 200 N) in (-1, 1)"""
        return self.generator.model(self.generator.quantizer.decode(codes))


class Encoder(nn.Module):
    """(B, 1, T) -> (B, D, N)"""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        dims = [config.encoder_channels * 2**i for i in range(len(config.ratios) + 1)]
        self.block = nn.Sequential(
            nn.Conv1d(1, dims[0], 7, padding=3),
            *(DownStage(dim, ratio, config.dilations) for dim, ratio in zip(dims, config.ratios, strict=False)),
            ResidualLSTM(dims[-1], config.lstm_layers),
            AntiAliasedSnake(dims[-1]),
            nn.Conv1d(dims[-1], config.feature_dim, 3, padding=1),
        )


class Generator(nn.Module):
    """Quantiser and decoder: codes (B, 1, N) -> (B, 1, 200 N)."""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        dims = [config.decoder_channels // 2**i for i in range(len(config.ratios) + 1)]
        ratios = reversed(config.ratios)
        self.quantizer = Quantizer(config)
        self.model = nn.Sequential(
            nn.Conv1d(config.feature_dim, dims[0], 7, padding=3),
            ResidualLSTM(dims[0], config.lstm_layers),
            *(UpStage(dim, ratio, config.dilations) for dim, ratio in zip(dims, ratios, strict=False)),
            AntiAliasedSnake(dims[-1]),
            nn.Conv1d(dims[-1], 1, 7, padding=3),
            nn.Tanh(),
        )


class Quantizer(nn.Module):
    """Features (B, D, N) <-> codes (B, 1, N), with the only codebook."""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList([Codebook(config)])

    def encode(self, features: Tensor) -> Tensor:
        """(B, D, N) -> (B, 1, N)"""
        return torch.stack([layer.encode(features.mT) for layer in self.layers], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, 1, N) -> (B, D, N)"""
        return self.layers[0].decode(codes[:, 0]).mT


class Codebook(nn.Module):
    """Vectors of few dimensions, compared by cosine (Yu et al., 2021, arXiv 2110.04627) but passed on as they are."""

    def __init__(self, config: BigCodecConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.feature_dim, config.codebook_dim)
        self.out_proj = nn.Linear(config.codebook_dim, config.feature_dim)
        self._codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def encode(self, features: Tensor) -> Tensor:
        """(B, N, D) -> (B, N)"""
        rows = F.normalize(self._codebook.weight, dim=-1)
        return (F.normalize(self.in_proj(features), dim=-1) @ rows.mT).argmax(dim=-1)

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
        half, padding, odd = dim // 2, (ratio + 1) // 2, ratio % 2
        self.block = nn.Sequential(
            AntiAliasedSnake(dim),
            nn.ConvTranspose1d(dim, half, 2 * ratio, ratio, padding=padding, output_padding=odd),
            *(ResidualUnit(half, dilation) for dilation in dilations),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C / 2, T * ratio)"""
        return self.block(x)


class ResidualUnit(nn.Module):
    """A dilated and a pointwise convolution, each behind an activation, with a residual around them."""

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
    """An LSTM from the first frame to the last, with a residual around it."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)"""
        return x + self.lstm(x.mT)[0].mT


class AntiAliasedSnake(nn.Module):
    """SnakeBeta at twice the rate, so that harmonics are filtered out, not folded; ends are replicated."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act = SnakeBeta(dim)
        self.upsample = Filter()
        self.downsample: Any = nn.ModuleDict({"lowpass": Filter()})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        up, down = self.upsample.filter, self.downsample["lowpass"].filter
        taps, channels = up.shape[-1], x.shape[1]
        pad = taps // 2 - 1
        x = F.pad(x, (pad, pad), mode="replicate")
        # The cut removes the filter's run-in as well as the replicas: exactly 2 T are left.
        x = F.conv_transpose1d(x, 2 * up.expand(channels, 1, -1), stride=2, padding=3 * pad, groups=channels)
        x = F.pad(self.act(x), (pad, pad + 1), mode="replicate")
        return F.conv1d(x, down.expand(channels, 1, -1), stride=2, groups=channels)


class Filter(nn.Module):
    """The half-band filter (1, 1, 12): a constant that the checkpoint stores with every activation."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass()[None, None])


register_model(BigCodecModel)


class BigCodec(CodecAdapter):
    """BigCodec behind the calls of `FocalCodecModel`."""

    model_class = BigCodecModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "BigCodec":
        """Load a folder or hub id: what `save_pretrained` wrote, or the published weights converted to safetensors.

        These have the keys `CodecEnc.*` and `generator.*` in model.safetensors or bigcodec.safetensors, and beside them
        the reference's config as config.json, or no config.json for the published sizes.

        Raises:
            OSError: no safetensors weights; pickled ones are never loaded.
            ValueError: another codec, damaged weights, or a key is missing, left over or of another shape.
        """
        config = read_config(source, kwargs)
        if config.get("model_type") == BigCodecConfig.model_type:
            return cls(load_native(BigCodecModel, source, None, kwargs), num_codebooks)
        if config and not is_official(config):
            raise ValueError(f"{source} holds no BigCodec: its config.json has the keys {sorted(config)[:10]}")
        weights = next((path for name in _WEIGHTS if (path := find_file(source, name, kwargs))), None)
        if weights is None:
            raise OSError(
                f"{source} holds neither of {_WEIGHTS}; the published bigcodec.pt is a pickle, which is never loaded: "
                "convert it with state = torch.load('bigcodec.pt', weights_only=True); safetensors.torch.save_file("
                "{f'{part}.{key}': tensor.clone() for part in ('CodecEnc', 'generator') for key, tensor in "
                "state[part].items()}, 'bigcodec.safetensors')"
            )
        tensors = {key: t for key, t in read_safetensors(weights).items() if not key.startswith(_DROPPED)}
        official = convert_config(config), fold_weight_norm(tensors)
        return cls(load_native(BigCodecModel, source, official, kwargs), num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """The vectors (codebook_size, codebook_dim) that stand for the codes, float32."""
        return [self.model.generator.quantizer.layers[0]._codebook.weight.detach().float()]

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return 1, 1

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.hop_length, config.codebook_size, num_codebooks)


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config.json is the reference's, with sections for the two halves."""
    return {"codec_encoder", "codec_decoder"} <= config.keys()


def convert_config(config: dict[str, Any]) -> BigCodecConfig:
    """The reference's config, or an empty one for the published sizes -> ours.

    Raises:
        ValueError: an option that the published model does not use, or two halves that do not fit.
    """
    if not config:
        return BigCodecConfig()
    encoder, decoder = config["codec_encoder"], config["codec_decoder"]
    for section, key, value in _FIXED:
        if config[section].get(key, value) != value:
            raise ValueError(f"{section}.{key} is {config[section][key]}; only {value} is known")
    pairs = (
        ("up_ratios", encoder["up_ratios"], "reversed up_ratios", decoder["up_ratios"][::-1]),
        ("dilations", encoder["dilations"], "dilations", decoder["dilations"]),
        ("rnn_num_layers", encoder["rnn_num_layers"], "rnn_num_layers", decoder["rnn_num_layers"]),
        ("out_channels", encoder["out_channels"], "in_channels", decoder["in_channels"]),
        ("out_channels", encoder["out_channels"], "vq_dim", decoder["vq_dim"]),
    )
    wrong = [f"codec_encoder.{a} is {x} but codec_decoder.{b} is {y}" for a, x, b, y in pairs if x != y]
    if wrong:
        raise ValueError("the halves of this BigCodec do not fit: " + "; ".join(wrong))
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
