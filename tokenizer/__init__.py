"""Codecs between speech and tokens, and `AudioTokenizer`, which works with any of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_classes import register_lazily

if TYPE_CHECKING:
    from .audio import read_audio, write_audio
    from .audio_tokenizer import AudioTokenizer
    from .focalcodec.configuration import FocalCodecConfig
    from .focalcodec.feature_extraction import FocalCodecFeatureExtractor
    from .focalcodec.modeling import FocalCodecModel
    from .waveform import resample

__all__ = [
    "AudioTokenizer",
    "FocalCodecConfig",
    "FocalCodecFeatureExtractor",
    "FocalCodecModel",
    "read_audio",
    "resample",
    "write_audio",
]

_MODULES = {
    "AudioTokenizer": "audio_tokenizer",
    "FocalCodecConfig": "focalcodec.configuration",
    "FocalCodecFeatureExtractor": "focalcodec.feature_extraction",
    "FocalCodecModel": "focalcodec.modeling",
    "read_audio": "audio",
    "resample": "waveform",
    "write_audio": "audio",
}

register_lazily()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
