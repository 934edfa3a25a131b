"""WavTokenizer (Ji et al., 2024, arXiv 2408.16532): 24 kHz audio as one stream of 40 or 75 tokens per second.

B batch, T samples, N frames, D feature width. The names of modules are those of the official checkpoints.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..focalcodec.checkpoint import read_config, read_safetensors
from ..focalcodec.decoders import ISTFTHead
from ..focalcodec.layers import ConvNeXtBlock
from ..focalcodec.parts import VocosConfig
from .adapter import CodecAdapter, CodecConfig, NativeModel, register_model
from .checkpoint import find_weights, fold_weight_norm, load_native
from .layers import CODEBOOK_STATISTICS, ResidualVQ, SEANetEncoder

_NORM_GROUPS = 32
_NORM_EPS = 1e-6

# The official file also holds discriminators, losses, and a decoder that is not used.
_UNUSED_PREFIXES = (
    "feature_extractor.encodec.decoder.",
    "multiperioddisc.",
    "multiresddisc.",
    "dac.",
    "dacdiscriminator.",
    "melspec_loss.",
)
_WINDOW_KEY = "head.istft.window"  # a Hann window, which the head computes
_ENCODER_PREFIX = "feature_extractor.encodec.encoder.model."
# Tensors whose shapes give the sizes of a model.
_CODEBOOK_KEY = "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed"
_FFN_KEY = "backbone.convnext.0.pwconv1.weight"
_NORM_KEY = "backbone.norm.scale.weight"
_HEAD_KEY = "head.proj.weight"


@strict
class WavTokenizerConfig(PreTrainedConfig):
    """Configuration of a WavTokenizer; the defaults are those of `WavTokenizer-large-unify-40token`.

    Args:
        sampling_rate: of input and output in Hz.
        channels: of the encoder's first convolution; each stride doubles them.
        strides: of the encoder, in its order; by default 4, 5, 5, 6.
        codebook_size: number of codes.
        codebook_dim: width of their vectors and of the encoder's output.
        dim: width of the decoder's ConvNeXt blocks.
        ffn_dim: inner width of the decoder's ConvNeXt blocks.
        num_layers: number of the decoder's ConvNeXt blocks.
        num_conditions: rows in the tables of the adaptive norms, of which the first is used.
    """

    model_type = "focallm_wavtokenizer"

    sampling_rate: int = 24000
    channels: int = 32
    strides: list[int] | None = None
    codebook_size: int = 4096
    codebook_dim: int = 512
    dim: int = 768
    ffn_dim: int = 2304
    num_layers: int = 12
    num_conditions: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        self.strides = [4, 5, 5, 6] if self.strides is None else list(self.strides)
        super().__post_init__(**kwargs)

    @property
    def samples_per_token(self) -> int:
        """Samples per token (600: 40 Hz)."""
        assert self.strides is not None
        return math.prod(self.strides)

    @property
    def vocos_config(self) -> VocosConfig:
        """Sizes of the decoder. The windows of its inverse STFT are four tokens long."""
        return VocosConfig(
            self.codebook_dim,
            num_layers=self.num_layers,
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            n_fft=4 * self.samples_per_token,
            hop_length=self.samples_per_token,
        )


class WavTokenizerModel(NativeModel):
    """SEANet encoder -> one codebook -> Vocos with attention. It has no padding masks."""

    config_class = WavTokenizerConfig

    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__(config)
        assert config.strides is not None
        encoder = SEANetEncoder(config.channels, config.strides, config.codebook_dim)
        quantizer = ResidualVQ(1, config.codebook_size, config.codebook_dim)
        parts = nn.ModuleDict({"encoder": encoder, "quantizer": quantizer})
        self.feature_extractor = nn.ModuleDict({"encodec": parts})
        self.backbone = AdaptiveVocos(config.vocos_config, config.num_conditions)
        self.head = ISTFTHead(config.vocos_config)
        self.post_init()

    @property
    def encoder(self) -> Any:
        """The `SEANetEncoder`."""
        parts: Any = self.feature_extractor["encodec"]
        return parts["encoder"]

    @property
    def quantizer(self) -> Any:
        """The `ResidualVQ`."""
        parts: Any = self.feature_extractor["encodec"]
        return parts["quantizer"]

    def extract_features(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T) -> features before quantization (B, D, N), N = ceil(T / samples_per_token)."""
        return self.encoder(waveform)

    def encode(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T) -> codes (B, 1, N) int64."""
        return self.quantizer.encode(self.extract_features(waveform), 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, N) -> waveform (B, 1, N * samples_per_token), not limited to [-1, 1]."""
        return self.head(self.backbone(self.quantizer.decode(codes)))[:, None]


class AdaptiveVocos(nn.Module):
    """The backbone of the decoder: Vocos behind an attention block; features (B, input_dim, N) -> (B, N, dim).

    Group norms and attention see the whole utterance, so padding would change every frame.
    """

    def __init__(self, config: VocosConfig, num_conditions: int) -> None:
        super().__init__()
        dim = config.dim
        self.embed = nn.Conv1d(config.input_dim, dim, config.kernel_size, padding="same")
        self.pos_net = nn.Sequential(
            ResidualBlock(dim),
            ResidualBlock(dim),
            Attention(dim),
            ResidualBlock(dim),
            ResidualBlock(dim),
            _group_norm(dim),
        )
        self.norm = AdaptiveNorm(dim, num_conditions)
        self.convnext = nn.ModuleList(AdaptiveBlock(config, num_conditions) for _ in range(config.num_layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        """(B, input_dim, N) -> (B, N, dim)"""
        x = self.norm(self.pos_net(self.embed(features)).mT)
        for block in self.convnext:
            x = block(x, None, None)
        return self.final_layer_norm(x)


class ResidualBlock(nn.Module):
    """Two convolutions, each after a group norm and a swish, with a residual connection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(dim)
        self.conv1 = nn.Conv1d(dim, dim, 3, padding=1)
        self.norm2 = _group_norm(dim)
        self.conv2 = nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, N) -> (B, D, N)"""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """One head over all frames, without positions, with a residual connection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = _group_norm(dim)
        self.q = nn.Conv1d(dim, dim, 1)
        self.k = nn.Conv1d(dim, dim, 1)
        self.v = nn.Conv1d(dim, dim, 1)
        self.proj_out = nn.Conv1d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, N) -> (B, D, N)"""
        y = self.norm(x)
        y = F.scaled_dot_product_attention(self.q(y).mT, self.k(y).mT, self.v(y).mT)
        return x + self.proj_out(y.mT)


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift depend on a condition."""

    def __init__(self, dim: int, num_conditions: int) -> None:
        super().__init__()
        self.scale = nn.Embedding(num_conditions, dim)
        self.shift = nn.Embedding(num_conditions, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        # The files hold a row for each of four bandwidths, but every published script decodes with the first.
        return F.layer_norm(x, x.shape[-1:], self.scale.weight[0], self.shift.weight[0], _NORM_EPS)


class AdaptiveBlock(ConvNeXtBlock):
    """A ConvNeXt block of Vocos with the adaptive norm."""

    def __init__(self, config: VocosConfig, num_conditions: int) -> None:
        super().__init__(config.dim, config.ffn_dim, config.kernel_size, 1 / config.num_layers)
        self.norm = AdaptiveNorm(config.dim, num_conditions)  # type: ignore[assignment]  # instead of a LayerNorm


def _group_norm(dim: int) -> nn.GroupNorm:
    return nn.GroupNorm(_NORM_GROUPS, dim, eps=_NORM_EPS)


register_model(WavTokenizerModel)


class WavTokenizerCodec(CodecAdapter):
    """WavTokenizer with the methods of `FocalCodecModel`.

    The FocalCodec paper compares with the model of 40 tokens per second (480 bit/s).
    """

    model_class = WavTokenizerModel

    @classmethod
    def from_pretrained(
        cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any
    ) -> "WavTokenizerCodec":
        """Load a folder or hub id, in our layout or the official one.

        The official layout is the `state_dict` of the published .ckpt as model.safetensors. There is no config; the
        shapes of the weights tell the sizes.

        Raises:
            OSError: There are no safetensors weights. Pickled ones are never loaded.
            ValueError: Damaged weights, or a key that is missing, left over or of another shape.
        """
        official = None
        if read_config(source, kwargs).get("model_type") != WavTokenizerConfig.model_type:
            tensors = convert_state_dict(read_safetensors(find_weights(source, kwargs)))
            official = (WavTokenizerConfig(**infer_config(tensors)), tensors)
        return cls(load_native(WavTokenizerModel, source, official, kwargs), num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """Return [(codebook_size, D)]."""
        return self.model.quantizer.tables()

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.samples_per_token, config.codebook_size, num_codebooks)


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config has the sections of the official one."""
    return {"backbone", "head"} <= config.keys() and "model_type" not in config


def is_official_folder(folder: Path) -> bool:
    """Whether a folder without config.json holds an official WavTokenizer, pickled or not."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return any(folder.glob("[Ww]av[Tt]okenizer*.ckpt"))
    try:
        with safe_open(weights, "pt") as file:
            return _CODEBOOK_KEY in file.keys()  # noqa: SIM118, it is no dictionary
    except SafetensorError:
        return False


def convert_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official tensors to ours: drop those that are not used, and fold weight normalization."""
    used = {}
    for key, tensor in tensors.items():
        if not key.startswith(_UNUSED_PREFIXES) and not key.endswith(CODEBOOK_STATISTICS) and key != _WINDOW_KEY:
            used[key.replace("head.out.", "head.proj.")] = tensor
    return fold_weight_norm(used)


def infer_config(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Infer keyword arguments of `WavTokenizerConfig` from tensors with our keys.

    Raises:
        ValueError: A tensor that tells a size is missing, or the sizes do not fit.
    """
    # Every third layer of the encoder is a convolution; all but the first and the last have a stride.
    last_layer = 0
    num_layers = 0
    for key in tensors:
        conv = re.fullmatch(re.escape(_ENCODER_PREFIX) + r"(\d+)\.conv\.conv\.weight", key)
        if conv:
            last_layer = max(last_layer, int(conv[1]))
        if re.fullmatch(r"backbone\.convnext\.\d+\.gamma", key):
            num_layers += 1
    convs = [f"{_ENCODER_PREFIX}{i}.conv.conv.weight" for i in range(0, last_layer + 1, 3)]

    absent = [key for key in (_CODEBOOK_KEY, _FFN_KEY, _NORM_KEY, _HEAD_KEY, *convs) if key not in tensors]
    if absent:
        raise ValueError(f"these weights are not those of a WavTokenizer, or not all of them: they lack {absent[:5]}")
    codebook_size, codebook_dim = tensors[_CODEBOOK_KEY].shape
    num_conditions, dim = tensors[_NORM_KEY].shape
    num_head_rows = tensors[_HEAD_KEY].shape[0]
    # The kernel of a convolution with a stride is twice as long as the stride.
    strides = [tensors[key].shape[-1] // 2 for key in convs[1:-1]]
    if num_head_rows != 4 * math.prod(strides) + 2:
        raise ValueError(
            f"{_HEAD_KEY} has {num_head_rows} rows, but strides {strides} need {4 * math.prod(strides) + 2}: the "
            "weights belong to different models, or are incomplete"
        )
    return {
        "channels": tensors[convs[0]].shape[0],
        "strides": strides,
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "dim": dim,
        "ffn_dim": tensors[_FFN_KEY].shape[0],
        "num_layers": num_layers,
        "num_conditions": num_conditions,
    }
