"""Which codec a folder or hub id holds, and loading it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..focalcodec.modeling import FocalCodecModel
from . import stable_codec
from .adapter import CodecAdapter
from .dac import DacCodec
from .encodec import EncodecCodec
from .mimi import MimiCodec
from .official import conversion_advice, find_config
from .stable_codec import StableCodec

Codec = FocalCodecModel | CodecAdapter

# By `model_type` of config.json.
_ADAPTERS: dict[str, type[CodecAdapter]] = {
    "encodec": EncodecCodec,
    "dac": DacCodec,
    "mimi": MimiCodec,
    "focallm_stable_codec": StableCodec,
}
# Official layouts without such a `model_type`: how their config tells, and what opens them.
_OFFICIAL: list[tuple[Callable[[dict[str, Any]], bool], type[CodecAdapter]]] = [(stable_codec.is_official, StableCodec)]
# Where a config can be, the first found counts.
_CONFIG_NAMES = ("config.json", stable_codec.CONFIG_NAME)
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
    config = _read_config(str(source), kwargs)
    kind = config.get("model_type")
    adapter = next((official for check, official in _OFFICIAL if check(config)), _ADAPTERS.get(str(kind)))
    if adapter is not None:
        root = Path(source, kwargs.get("subfolder", ""))
        if root.is_dir() and not any(root.glob("*.safetensors")):
            others = sorted(path.name for path in root.iterdir() if path.suffix != ".json")
            raise OSError(f"{source} holds no .safetensors weights. {conversion_advice([*others, 'model.pt'][0])}")
        return adapter.from_pretrained(source, num_codebooks, **kwargs)
    if kind not in (None, "focalcodec"):
        raise ValueError(
            f"{source} holds no codec that is known here: the model_type in its config.json is {kind!r}, expected "
            f"one of {['focalcodec', *_ADAPTERS]}"
        )
    if num_codebooks not in (None, 1):
        raise ValueError(f"a FocalCodec has one codebook, found num_codebooks={num_codebooks}")
    return FocalCodecModel.from_pretrained(source, **kwargs)


def _read_config(source: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The config of a folder or hub id; empty where there is none, and FocalCodec's loader knows what to say."""
    if not Path(source).exists() and (
        source.endswith(".json") or source.startswith((".", "/", "~")) or source.count("/") > 1
    ):
        return {}
    found = (find_config(source, name, kwargs) for name in _CONFIG_NAMES)
    return next((config for config in found if config is not None), {})
