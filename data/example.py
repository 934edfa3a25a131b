"""What becomes one row of a token store: signals of equal length, and what is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..tokenizer.audio import Waveform
from .utterance import Utterance


@dataclass(frozen=True)
class Example:
    """Clean speech and, if it was mixed, what a model hears instead of it. All signals have T samples.

    Args:
        item: id, text, speaker and extra columns of the row; they describe the target.
        target: (T,) clean speech, column `codes`.
        heard: (T,) the same speech in noise, in a mixture or in disguise; None if it was not mixed.
        others: (T,) each, the talkers of a mixture who begin after the target's.
        facts: further columns, by name.
    """

    item: Utterance
    target: Waveform
    heard: Waveform | None = None
    others: tuple[Waveform, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signals(self) -> list[Waveform]:
        """All signals: the target, what is heard, the others."""
        return [self.target, *([] if self.heard is None else [self.heard]), *self.others]
