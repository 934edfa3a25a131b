"""Everything that users call: one function for each speech task, training, evaluation, and the command line."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.continue_speech import continue_speech
    from .inference.convert import convert
    from .inference.enhance import enhance
    from .inference.result import SpeechResult, Transcript
    from .inference.separate import separate
    from .inference.speak import SpeechStream, speak, stream_speech
    from .inference.transcribe import transcribe

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

# Names whose module in `inference` has another name.
_MODULES = {"SpeechResult": "result", "SpeechStream": "speak", "Transcript": "result", "stream_speech": "speak"}


def __getattr__(name: str) -> Any:
    """Import a task when it is first used, so that the command line starts without torch.

    The function of a task is in the module of `inference` that has its name, unless `_MODULES` says otherwise.
    """
    module = f"{__name__}.inference.{_MODULES.get(name, name)}"
    if name.startswith("_") or find_spec(module) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        # A helper module of `inference`, such as `inputs`, has no function of its own name.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
