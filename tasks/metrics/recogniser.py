"""What is said in a recording: Whisper, by faster-whisper. T samples."""

from collections.abc import Callable

import numpy as np

from ...tokenizer import resample
from .word_errors import MISSING

Recogniser = Callable[[np.ndarray, int], str]  # audio (T,), rate -> text


def load_recogniser(folder: str) -> Recogniser:
    """A Whisper model in faster-whisper's layout, greedy, English.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise ImportError(MISSING) from None
    whisper = WhisperModel(folder, device="cpu", compute_type="int8")

    def recognise(audio: np.ndarray, rate: int) -> str:
        segments, _ = whisper.transcribe(
            resample(audio, rate, 16000),
            language="en",
            beam_size=1,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text for segment in segments)

    return recognise
