"""What a user asks for: speech tasks, their evaluation, and the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .continuation import continue_speech
    from .conversion import convert
    from .enhancement import enhance
    from .recognition import transcribe
    from .result import SpeechResult, Transcript
    from .separation import separate
    from .streaming import SpeechStream, stream_speech
    from .tts import speak

__all__ = [
    "SpeechResult",
    "SpeechStream",
    "Transcript",
    "continue_speech",
    "convert",
    "enhance",
    "separate",
    "speak",
    "stream_speech",
    "transcribe",
]

_HOMES = {
    "SpeechResult": "result",
    "SpeechStream": "streaming",
    "Transcript": "result",
    "continue_speech": "continuation",
    "convert": "conversion",
    "enhance": "enhancement",
    "separate": "separation",
    "speak": "tts",
    "stream_speech": "streaming",
    "transcribe": "recognition",
}


def __getattr__(name: str) -> Any:
    """Import a task when it is asked for, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"focallm.tasks has no {name!r}; it has {__all__}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
