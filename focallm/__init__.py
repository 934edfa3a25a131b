"""Speech language modeling on codec tokens: an audio tokenizer and language models on its tokens."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lm import SpeechLM
    from .tasks import continue_speech, convert, enhance, separate, speak, stream_speech, transcribe
    from .tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

__version__ = "0.3.0"
__all__ = [
    "AudioTokenizer",
    "FocalCodecConfig",
    "FocalCodecModel",
    "SpeechLM",
    "continue_speech",
    "convert",
    "enhance",
    "separate",
    "speak",
    "stream_speech",
    "transcribe",
]

# In a checkout, tokenizer/, data/, lm/ and tasks/ lie beside this folder. Python started there finds this folder before
# the installed package, so it has to be told where the rest is.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_TOKENIZER_NAMES = {"AudioTokenizer", "FocalCodecConfig", "FocalCodecModel"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import focallm` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'focallm' has no attribute {name!r}")
    package = "tasks"
    if name in _TOKENIZER_NAMES:
        package = "tokenizer"
    elif name == "SpeechLM":
        package = "lm"
    value = getattr(import_module(f".{package}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what users import."""
    return sorted(__all__)
