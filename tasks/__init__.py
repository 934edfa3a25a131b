"""What a user asks for: speech tasks, their evaluation, and the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import SpeechResult
    from .tts import speak

__all__ = ["SpeechResult", "speak"]

_HOMES = {"SpeechResult": "result", "speak": "tts"}


def __getattr__(name: str) -> Any:
    """Import a task when it is asked for, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"focallm.tasks has no {name!r}; it has {__all__}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
