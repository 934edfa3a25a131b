"""Which codec a folder or hub id holds, and loading it."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..focalcodec.loading import read_json
from ..focalcodec.modeling import FocalCodecModel
from .adapter import CodecAdapter
from .dac import DacCodec
from .encodec import EncodecCodec
from .mimi import MimiCodec

Codec = FocalCodecModel | CodecAdapter

# By `model_type` of config.json.
_ADAPTERS: dict[str, type[CodecAdapter]] = {"encodec": EncodecCodec, "dac": DacCodec, "mimi": MimiCodec}
# Weights that are part of the package, by the name that stands for them.
_BUNDLED = {"mini": Path(__file__).parent.parent / "weights" / "mini"}


def load_codec(source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> Codec:
    """Load whichever codec `source` holds; see `AudioTokenizer.from_pretrained`."""
    if str(source) in _BUNDLED:
        folder = _BUNDLED[str(source)]
        if not folder.is_dir():
            raise OSError(
                f"this installation has no bundled weights at {folder}: install focallm again, or name a folder"
            )
        codec: Any = load_codec(folder, num_codebooks, **kwargs)
        codec.name_or_path = str(source)  # what token stores remember it by, wherever the package is installed
        return codec
    kind = _model_type(str(source), kwargs)
    if kind in _ADAPTERS:
        if Path(source).is_dir() and not any(Path(source, kwargs.get("subfolder", "")).glob("*.safetensors")):
            raise OSError(
                f"{source} holds no .safetensors weights; pickled ones (.bin, .pt) are never loaded: convert them with "
                "safetensors.torch.save_file"
            )
        return _ADAPTERS[kind].from_pretrained(source, num_codebooks, **kwargs)
    if kind not in (None, "focalcodec"):
        raise ValueError(
            f"{source} holds no codec that is known here: the model_type in its config.json is {kind!r}, expected "
            f"one of {['focalcodec', *_ADAPTERS]}"
        )
    if num_codebooks not in (None, 1):
        raise ValueError(f"a FocalCodec has one codebook, found num_codebooks={num_codebooks}")
    return FocalCodecModel.from_pretrained(source, **kwargs)


def _model_type(source: str, kwargs: dict[str, Any]) -> str | None:
    """As in config.json; None in the official FocalCodec layout, and where FocalCodec's loader knows what to say."""
    if Path(source).exists():
        config = Path(source) / kwargs.get("subfolder", "") / "config.json"
        return read_json(config).get("model_type") if config.is_file() else None
    if source.endswith(".json") or source.startswith((".", "/", "~")) or source.count("/") > 1:
        return None
    return PreTrainedConfig.get_config_dict(source, **kwargs)[0].get("model_type")
