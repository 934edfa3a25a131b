"""What may be written next: the way of one item through its phases. K codebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .templates import Phase
from .vocabulary import Vocabulary

StopReason = Literal["end", "length", "constraint"]


@dataclass(frozen=True, eq=False)
class Block:
    """The ids `first` to `last` (not included) of the vocabulary, but for those that are barred (last - first,)."""

    first: int
    last: int
    barred: Tensor | None = None


def blocks(vocabulary: Vocabulary, kinds: set[str]) -> dict[str, tuple[Block, ...]]:
    """For each kind of phase the blocks that take turns: one for each codebook; one for text."""
    made: dict[str, tuple[Block, ...]] = {}
    if "codes" in kinds:
        sizes, first = vocabulary.codebook_sizes, vocabulary.audio_offset
        made["codes"] = tuple(Block(first + sum(sizes[:k]), first + sum(sizes[: k + 1])) for k in range(len(sizes)))
    if "text" in kinds:
        made["text"] = (_text(vocabulary),)
    return made


def _text(vocabulary: Vocabulary) -> Block:
    """All ids of the base vocabulary that stand for text, and not for its own beginnings, ends and unknowns."""
    tokenizer, offset = vocabulary.tokenizer, vocabulary.audio_offset
    barred = torch.zeros(len(tokenizer), dtype=torch.bool)
    barred[offset : offset + vocabulary.audio_vocab_size] = True
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    barred[special + tokenizer.all_special_ids] = True
    allowed = (~barred).nonzero()
    first, last = int(allowed[0]), int(allowed[-1]) + 1
    return Block(first, last, barred[first:last])


class Walk:
    """One item on its way through its phases: says what may follow and takes what was drawn.

    Args:
        phases: what to write, in order.
        blocks: of each kind of phase, from `blocks`.

    Raises:
        ValueError: a window that holds no whole number of frames.
    """

    def __init__(self, phases: Sequence[Phase], blocks: Mapping[str, tuple[Block, ...]]) -> None:
        self.phases, self._blocks = phases, [blocks[phase.kind] for phase in phases]
        self._windows = [_window(phase, len(turns)) for phase, turns in zip(phases, self._blocks, strict=True)]
        self.spans: list[list[int]] = [[]]  # ids, without the closing ones
        self._given: list[int] = []  # ids to be read before the next is drawn
        self._survival, self._quantile = 1.0, 0.5  # of the span, where it is timed
        self.done = False

    def allowed(self) -> tuple[Block | None, int | None]:
        """The block of which the next id may be, and the closing id where it may come; one of them can be missing."""
        if self._given:
            return None, self._given[0]
        at, place = len(self.spans) - 1, len(self.spans[-1])
        turns, (fewest, most) = self._blocks[at], self._windows[at]
        closes = place >= fewest and place % len(turns) == 0
        return (turns[place % len(turns)] if place < most else None, self.phases[at].closing if closes else None)

    @property
    def timed(self) -> bool:
        """Whether it is decided before everything else if the span closes, see `Phase`."""
        return self.phases[len(self.spans) - 1].timed

    def closes(self, share: float, temperature: float, generator: torch.Generator) -> bool:
        """Whether a timed span closes here.

        Its length is a quantile of how long the model would have it: at temperature 1 any, which is to draw at every
        id; below, one nearer to the median, so that no unit is far too short or too long.

        Args:
            share: probability that the model gives to closing here.
        """
        if self._survival == 1.0:
            place = float(torch.rand(1, generator=generator))
            self._quantile = 0.5 + min(temperature, 1.0) * (place - 0.5)
        self._survival *= 1.0 - share
        return self._survival < self._quantile

    def take(self, chosen: int) -> int:
        """Go on by one id; after the last phase's closing id, or its longest span, the walk is done.

        Returns:
            The id that the model is to read: another one where a phase is followed by given ids.
        """
        if self._given:
            return self._given.pop(0)
        at = len(self.spans) - 1
        last = at == len(self.phases) - 1
        if chosen == self.phases[at].closing:
            self.done = last
            if not last:
                self.spans.append([])
                self._given, self._survival = list(self.phases[at].follow), 1.0
                return self._given.pop(0) if self._given else chosen
        else:
            self.spans[-1].append(chosen)
            self.done = last and len(self.spans[-1]) == self._windows[at][1]
        return chosen

    def joined(self) -> list[tuple[str, list[int]]]:
        """Kind and ids of every span, where those between which ids were given are one."""
        joined, goes_on = list[tuple[str, list[int]]](), False
        for phase, span in zip(self.phases, self.spans, strict=False):
            if goes_on:
                joined[-1][1].extend(span)
            else:
                joined.append((phase.kind, list(span)))
            goes_on = bool(phase.follow)
        return joined

    @property
    def stop_reason(self) -> StopReason:
        """Why the walk is done, see `Generation`; a unit that lasts as long as it may is no reading without an end."""
        free = [(span, most) for span, (least, most) in zip(self.spans, self._windows, strict=True) if least < most]
        if not free:
            return "constraint"
        if any(phase.follow for phase in self.phases):
            return "end"
        return "length" if any(len(span) == most for span, most in free) else "end"


def _window(phase: Phase, frame: int) -> tuple[int, int]:
    """Fewest and most ids in whole frames of K ids; codes are at least one frame, text can be empty."""
    fewest = -(-max(phase.fewest, phase.kind == "codes") // frame) * frame
    most = phase.most // frame * frame
    if fewest > most:
        raise ValueError(
            f"{phase.fewest} to {phase.most} ids hold no whole number of frames of {frame} codebooks: "
            f"count ids, {frame} for each frame"
        )
    return fewest, most
