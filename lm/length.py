"""How long a sequence may be: what a model has positions for, and how long a text takes to say."""

import math
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from .features import language_model
from .templates import Prompt

_UNBOUNDED = 1 << 17


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


def positions(model: PreTrainedModel) -> int:
    """How many ids a model can read and write in all; a model that says nothing of it has no table of positions."""
    return getattr(language_model(model).config, "max_position_embeddings", None) or _UNBOUNDED


def longest(prompt: Prompt) -> int:
    """Ids that may follow a prompt, with those that close a span before another."""
    return sum(phase.most + len(phase.follow[1:]) for phase in prompt.phases) + len(prompt.phases) - 1


def within(prompt: Prompt, model: PreTrainedModel) -> Prompt:
    """The same prompt, whose free spans end where the model's positions do."""
    room = positions(model) - len(prompt.ids) - len(prompt.phases)
    room -= sum(phase.fewest for phase in prompt.phases)
    phases = (replace(phase, most=min(phase.most, phase.fewest + max(room, 0))) for phase in prompt.phases)
    return replace(prompt, phases=tuple(phases))
