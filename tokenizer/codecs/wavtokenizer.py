"""WavTokenizer (Ji et al., 2024, arXiv 2408.16532): 24 kHz audio as one stream of 40 or 75 tokens per second.

B batch, T samples, N frames, D width.
"""

import math
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.checkpoint import read_safetensors
from ..focalcodec.decoders import ISTFTHead
from ..focalcodec.parts import VocosConfig
from .adapter import CodecAdapter, CodecConfig, register_model
from .adaptive_vocos import AdaptiveVocos
from .official import find_weights, fold_weight_norm, load_native, read_config
from .residual_vq import STATISTICS, ResidualVQ
from .seanet import SEANetEncoder

# What the official file holds beside the codec: discriminators, losses, and a decoder that is not used.
_DROPPED_PREFIXES = (
    "feature_extractor.encodec.decoder.",
    "multiperioddisc.",
    "multiresddisc.",
    "dac.",
    "dacdiscriminator.",
    "melspec_loss.",
)
_WINDOW = "head.istft.window"  # Hann's, which the head computes
_ENCODER = "feature_extractor.encodec.encoder.model."
_CODEBOOK = "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed"


class WavTokenizerConfig(PreTrainedConfig):
    """Configuration of a WavTokenizer; the defaults are those of `WavTokenizer-large-unify-40token`.

    Args:
        sampling_rate: in Hz, of input and output.
        channels: of the encoder's first convolution; each stride doubles them.
        strides: of the encoder, in its order; by default 4, 5, 5, 6.
        codebook_size: number of tokens.
        codebook_dim: width of their vectors and of the encoder's output.
        dim, ffn_dim, num_layers: width, inner width and number of the decoder's ConvNeXt blocks.
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
        """Sizes of the decoder; the windows of its inverse STFT are four tokens long."""
        hop = self.samples_per_token
        return VocosConfig(
            self.codebook_dim,
            num_layers=self.num_layers,
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            n_fft=4 * hop,
            hop_length=hop,
        )


class WavTokenizerModel(PreTrainedModel):
    """SEANet encoder -> one codebook -> Vocos with attention; for items without padding (see the adapter)."""

    config_class = WavTokenizerConfig
    main_input_name = "waveform"
    base_model_prefix = ""

    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__(config)
        assert config.strides is not None
        encoder = SEANetEncoder(config.channels, config.strides, config.codebook_dim)
        quantizer = ResidualVQ(1, config.codebook_size, config.codebook_dim)
        parts = nn.ModuleDict({"encoder": encoder, "quantizer": quantizer})
        self.feature_extractor = nn.ModuleDict({"encodec": parts})  # the official names
        self.backbone = AdaptiveVocos(config.vocos_config, config.num_conditions)
        self.head = ISTFTHead(config.vocos_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: constructors do it, and loading is strict, so that no weight is left to be drawn."""

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
        """Waveform (B, 1, T) -> what is quantised, (B, D, N), N = ceil(T / samples_per_token)."""
        return self.encoder(waveform)

    def encode(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T) -> codes (B, 1, N) int64."""
        return self.quantizer.encode(self.extract_features(waveform), 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, N) -> waveform (B, 1, N * samples_per_token), not limited to [-1, 1]."""
        return self.head(self.backbone(self.quantizer.decode(codes)))[:, None]


register_model(WavTokenizerModel)


class WavTokenizerCodec(CodecAdapter):
    """One codebook. The FocalCodec paper compares with the model of 40 tokens per second (480 bit/s)."""

    model_class = WavTokenizerModel

    @classmethod
    def from_pretrained(
        cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any
    ) -> "WavTokenizerCodec":
        """Load a folder or hub id, in our layout or the official one; strictly, in float32 unless `dtype` is given.

        The official layout is the `state_dict` of the published .ckpt as model.safetensors; no config belongs to it,
        and the sizes are read off the weights.

        Raises:
            OSError: nothing there, or no safetensors weights; pickled ones are never loaded.
            ValueError: damaged weights, or a key that is missing, left over or of another shape.
        """
        official = None
        if read_config(source, kwargs).get("model_type") != WavTokenizerConfig.model_type:
            tensors = convert_state_dict(read_safetensors(find_weights(source, kwargs)))
            official = WavTokenizerConfig(**infer_config(tensors)), tensors
        return cls(load_native(cls.model_class, source, official, kwargs), num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """[(codebook_size, D)]: what each token stands for."""
        return self.model.quantizer.tables()

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return 1, 1

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.samples_per_token, config.codebook_size, num_codebooks)


def is_official(config: dict[str, Any]) -> bool:
    """Whether a config has the sections of the official one (its weights tell the sizes)."""
    return {"backbone", "head"} <= config.keys() and "model_type" not in config


def is_official_folder(folder: Path) -> bool:
    """Whether a folder without config.json, as the official repository is, holds a WavTokenizer, pickled or not."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return any(folder.glob("[Ww]av[Tt]okenizer*.ckpt"))
    try:
        with safe_open(weights, "pt") as file:
            return _CODEBOOK in file.keys()  # noqa: SIM118, it is no dictionary
    except SafetensorError:
        return False


def convert_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors -> ours: without what is not used, with weight normalisation folded."""
    used = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(_DROPPED_PREFIXES) and not key.endswith(STATISTICS) and key != _WINDOW
    }
    return {key.replace("head.out.", "head.proj."): tensor for key, tensor in fold_weight_norm(used).items()}


def infer_config(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The sizes of tensors in our spelling -> keyword arguments of `WavTokenizerConfig`.

    Raises:
        ValueError: a tensor that tells a size is missing, or sizes that no WavTokenizer has together.
    """
    names = {
        "codebook": _CODEBOOK,
        "ffn": "backbone.convnext.0.pwconv1.weight",
        "norm": "backbone.norm.scale.weight",
        "head": "head.proj.weight",
    }
    # Among the encoder's layers every third is a convolution; all but the first and the last have a stride.
    pattern = re.compile(re.escape(_ENCODER) + r"(\d+)\.conv\.conv\.weight")
    last = max((int(found[1]) for found in map(pattern.fullmatch, tensors) if found), default=0)
    convs = [f"{_ENCODER}{i}.conv.conv.weight" for i in range(0, last + 1, 3)]
    absent = [name for name in [*names.values(), *convs] if name not in tensors]
    if absent:
        raise ValueError(f"these weights are not those of a WavTokenizer, or not all of them: they lack {absent[:5]}")
    shapes = {part: tuple(tensors[name].shape) for part, name in names.items()}
    strides = [tensors[name].shape[-1] // 2 for name in convs[1:-1]]
    if shapes["head"][0] != 4 * math.prod(strides) + 2:
        raise ValueError(
            f"{names['head']} has {shapes['head'][0]} rows, which strides {strides} do not lead to: the weights belong "
            "to different models, or are not all there"
        )
    return {
        "channels": tensors[convs[0]].shape[0],
        "strides": strides,
        "codebook_size": shapes["codebook"][0],
        "codebook_dim": shapes["codebook"][1],
        "dim": shapes["norm"][1],
        "ffn_dim": shapes["ffn"][0],
        "num_layers": sum(key.startswith("backbone.convnext.") and key.endswith(".gamma") for key in tensors),
        "num_conditions": shapes["norm"][0],
    }
