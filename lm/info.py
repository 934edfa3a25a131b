"""What a speech LM knows about itself."""

import math
from dataclasses import dataclass
from typing import Any

from .templates import Template

INFO_FILE = "speech_lm.json"
TEXT_RATE = 30  # ids of text per second of speech: more than anybody speaks, in characters


@dataclass(frozen=True)
class LengthWindow:
    """How long speech may be for a text: the paces of a corpus, in seconds per character."""

    fastest: float  # 1st percentile
    slowest: float  # 99th percentile

    @classmethod
    def learn(cls, characters: list[int], seconds: list[float]) -> "LengthWindow":
        """From the lengths of texts and of their recordings."""
        paces = sorted(s / max(c, 1) for c, s in zip(characters, seconds, strict=True))
        return cls(paces[len(paces) // 100], paces[-1 - len(paces) // 100])

    def tokens(self, characters: int, tokens_per_second: float) -> tuple[int, int]:
        """Fewest and most tokens for a text: half the fastest reading; half again, and a second, over the slowest."""
        low = 0.5 * self.fastest * characters * tokens_per_second
        high = (1.5 * self.slowest * characters + 1.0) * tokens_per_second
        return max(1, math.floor(low)), math.ceil(high)


@dataclass(frozen=True)
class SpeechLMInfo:
    """What a saved speech LM says about itself (`speech_lm.json`)."""

    templates: tuple[Template, ...] = ()  # the tasks it was trained on
    audio_tokenizer: str = "audio_tokenizer"  # "mini", a hub id, or a path relative to the folder, where a copy stands
    length_window: LengthWindow | None = None  # seconds of speech per character, seen in training
    voices: tuple[str, ...] = ()  # speakers seen in training
    longest_unit_s: float | None = None  # the longest that a unit of text lasted in training, where it is aligned

    def template(self, *names: str) -> Template:
        """The first of these tasks that the model was trained on.

        Raises:
            ValueError: none of them.
        """
        known = {template.name: template for template in self.templates}
        found = next((known[name] for name in names if name in known), None)
        if found is None:
            raise ValueError(
                f"this model was trained for {', '.join(known) or 'nothing'}, not for {' or '.join(names)}: name "
                "another folder, or train one (focallm train)"
            )
        return found

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SpeechLMInfo":
        """What `dataclasses.asdict` made, after JSON."""
        templates = tuple(Template.from_json(template) for template in values["templates"])
        window = values["length_window"]
        return cls(
            templates,
            values["audio_tokenizer"],
            window and LengthWindow(**window),
            tuple(values["voices"]),
            values.get("longest_unit_s"),
        )


def text_window(seconds: float) -> tuple[int, int]:
    """Fewest and most ids of text for so much speech."""
    return 0, 20 + round(TEXT_RATE * seconds)
