"""Which codec a folder or hub id holds, and loading it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..codec import Codec
from ..focalcodec.modeling import FocalCodecModel
from . import (
    bigcodec,
    semanticodec,
    speechtokenizer,
    stable_codec,
    ts3_codec,
    wavlm_km,
    wavlm_km_official,
    wavtokenizer,
)
from .adapter import CodecAdapter
from .dac import DacCodec
from .encodec import EncodecCodec
from .mimi import MimiCodec
from .official import conversion_advice, read_config
from .xcodec2 import NeuCodec, Xcodec2Codec

# By `model_type` of config.json.
_ADAPTERS: dict[str, type[CodecAdapter]] = {
    "encodec": EncodecCodec,
    "dac": DacCodec,
    "mimi": MimiCodec,
    "xcodec2": Xcodec2Codec,
    "neucodec": NeuCodec,
    "focallm_bigcodec": bigcodec.BigCodec,
    "focallm_wavtokenizer": wavtokenizer.WavTokenizerCodec,
    "focallm_speechtokenizer": speechtokenizer.SpeechTokenizerCodec,
    "focallm_stable_codec": stable_codec.StableCodec,
    "focallm_ts3_codec": ts3_codec.TS3Codec,
    "focallm_semanticodec": semanticodec.SemantiCodec,
    "focallm_wavlm_km": wavlm_km.WavLMKM,
}
# What tells that a config is the official one of a codec that is native here, by our `model_type`.
_OFFICIAL: dict[str, Callable[[dict[str, Any]], bool]] = {
    "focallm_bigcodec": bigcodec.is_official,
    "focallm_wavtokenizer": wavtokenizer.is_official,
    "focallm_speechtokenizer": speechtokenizer.is_official,
    "focallm_stable_codec": stable_codec.is_official,
    "focallm_wavlm_km": wavlm_km_official.is_official,
}
_CONFIG_NAMES = ("config.json", stable_codec.CONFIG_NAME)  # the first found counts
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
    kind = _kind(str(source), kwargs)
    if kind in _ADAPTERS:
        # Native codecs say themselves how their published weights are converted; SemantiCodec's package has its own.
        if (
            kind not in (*_OFFICIAL, "focallm_semanticodec")
            and Path(source).is_dir()
            and not any(Path(source, kwargs.get("subfolder", "")).glob("*.safetensors"))
        ):
            raise OSError(f"{source} holds no .safetensors weights. {conversion_advice(source, kwargs)}")
        return _ADAPTERS[kind].from_pretrained(source, num_codebooks, **kwargs)
    if kind not in (None, "focalcodec"):
        raise ValueError(
            f"{source} holds no codec that is known here: the model_type in its config.json is {kind!r}, expected "
            f"one of {['focalcodec', *_ADAPTERS]}"
        )
    if num_codebooks not in (None, 1):
        raise ValueError(f"a FocalCodec has one codebook, found num_codebooks={num_codebooks}")
    return FocalCodecModel.from_pretrained(source, **kwargs)


def _kind(source: str, kwargs: dict[str, Any]) -> str | None:
    """The `model_type` of a config, or ours where that is the official one of a native codec.

    None in the official FocalCodec layout, and where FocalCodec's loader knows what to say.
    """
    if source == semanticodec.NAME:
        return "focallm_semanticodec"
    path = Path(source)
    no_hub_id = source.endswith(".json") or source.startswith((".", "/", "~")) or source.count("/") > 1
    if path.is_file() or (no_hub_id and not path.exists()):
        return None
    config = next((found for name in _CONFIG_NAMES if (found := read_config(source, kwargs, name))), {})
    if not config and path.is_dir() and wavtokenizer.is_official_folder(path / kwargs.get("subfolder", "")):
        return "focallm_wavtokenizer"
    if not config and wavlm_km_official.published_layers(source, None, kwargs):
        return "focallm_wavlm_km"
    official = [kind for kind, is_official in _OFFICIAL.items() if is_official(config)]
    return official[0] if official else config.get("model_type")
