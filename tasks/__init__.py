"""What a user asks for: speech tasks, their evaluation, and the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.continuation import continue_speech
    from .inference.conversion import convert
    from .inference.enhancement import enhance
    from .inference.recognition import transcribe
    from .inference.result import SpeechResult, Transcript
    from .inference.separation import separate
    from .inference.streaming import SpeechStream, stream_speech
    from .inference.tts import speak

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
    "SpeechResult": "inference.result",
    "SpeechStream": "inference.streaming",
    "Transcript": "inference.result",
    "continue_speech": "inference.continuation",
    "convert": "inference.conversion",
    "enhance": "inference.enhancement",
    "separate": "inference.separation",
    "speak": "inference.tts",
    "stream_speech": "inference.streaming",
    "transcribe": "inference.recognition",
}


def __getattr__(name: str) -> Any:
    """Import a task when it is asked for, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"focallm.tasks has no {name!r}; it has {__all__}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
