"""What is judged. T samples."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....tokenizer import resample

Line = dict[str, Any]  # what is known of one sound, by key


@dataclass(frozen=True)
class Sound:
    """What is judged.

    Args:
        audio: (T,) at `rate` Hz.
        text: what it is to say.
        target: (T,) at the same rate, what it is to sound like.
        voices: key of a line -> (T,) at the same rate, a recording whose voice is compared with that of the sound.
        facts: what else its line is to hold.
    """

    audio: np.ndarray
    rate: int
    text: str = ""
    target: np.ndarray | None = None
    voices: dict[str, np.ndarray] = field(default_factory=dict)
    facts: Line = field(default_factory=dict)

    def at(self, rate: int) -> np.ndarray:
        """The audio (T',) float32 at another rate in Hz."""
        return resample(np.asarray(self.audio, np.float32), self.rate, rate)

    def pair(self, rate: int) -> tuple[np.ndarray, np.ndarray]:
        """The target and the audio (T',) float32 at another rate in Hz; what one lasts longer is cut."""
        assert self.target is not None
        target, audio = (resample(np.asarray(wave, np.float32), self.rate, rate) for wave in (self.target, self.audio))
        size = min(len(target), len(audio))
        return target[:size], audio[:size]
