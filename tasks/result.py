"""What a task returns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..lm.generation import StopReason
from ..tokenizer import write_audio


@dataclass(frozen=True)
class SpeechResult:
    """Audio (T,) float32 at `sampling_rate` Hz, why it ended, and figures about its making."""

    audio: np.ndarray
    sampling_rate: int
    stop_reason: StopReason
    stats: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the audio, and the folders it needs; the suffix chooses the format (.wav, .flac, .ogg)."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, self.audio, self.sampling_rate)
