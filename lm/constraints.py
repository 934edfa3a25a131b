"""Decoding constraints: which ids a model may write next, according to the spans that its prompt asks for.

A `Prompt` lists its output as phases: spans of text or codes with a minimum and a maximum length. `DecodingConstraint`
follows one item through its phases. K codebooks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from numpy.random import Generator
from torch import Tensor

from .templates import Phase
from .vocabulary import Vocabulary

StopReason = Literal["end", "max_length", "constraint"]


@dataclass(frozen=True)
class IdRange:
    """A contiguous range of ids of one vocabulary.

    Args:
        start: first id.
        stop: one past the last id.
        banned_ids: (stop - start,) bool, True for ids of the range that must not be written; None if all may be.
    """

    start: int
    stop: int
    banned_ids: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Choice:
    """What an item may write next. Items with equal choices are sampled together.

    Args:
        id_range: ids that continue the span; None if the span is full.
        closing_id: the id that closes the span; None if the span is too short to be closed.
        timed: whether to decide on closing before sampling an id, see `Phase`.
    """

    id_range: IdRange | None
    closing_id: int | None
    timed: bool = False


def allowed_ranges(vocabulary: Vocabulary, kinds: set[str]) -> dict[str, tuple[IdRange, ...]]:
    """Return the id ranges of each kind of phase: one for each codebook, in turn, or one for text."""
    ranges: dict[str, tuple[IdRange, ...]] = {}
    if "codes" in kinds:
        codebooks = []
        start = vocabulary.audio_offset
        for size in vocabulary.codebook_sizes:
            codebooks.append(IdRange(start, start + size))
            start += size
        ranges["codes"] = tuple(codebooks)
    if "text" in kinds:
        ranges["text"] = (_text_range(vocabulary),)
    return ranges


@lru_cache(maxsize=1)
def _text_range(vocabulary: Vocabulary) -> IdRange:
    """Return the ids of the base vocabulary that stand for text, without its special tokens."""
    tokenizer = vocabulary.tokenizer
    banned = torch.zeros(len(tokenizer), dtype=torch.bool)
    banned[vocabulary.audio_range.start : vocabulary.audio_range.stop] = True
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    banned[special + tokenizer.all_special_ids] = True
    allowed = (~banned).nonzero()
    start = int(allowed[0])
    stop = int(allowed[-1]) + 1
    return IdRange(start, stop, banned[start:stop])


class DecodingConstraint:
    """State of one item during generation: determines which ids may follow, and records those that were chosen.

    Args:
        phases: the spans to write, in order.
        ranges: id ranges of each kind of phase, from `allowed_ranges`.

    Attributes:
        spans: ids written for each phase so far, without the closing ids.
        done: whether the last span is complete.

    Raises:
        ValueError: the length limits of a phase admit no whole number of frames.
    """

    def __init__(self, phases: Sequence[Phase], ranges: Mapping[str, tuple[IdRange, ...]]) -> None:
        self.phases = phases
        self.spans: list[list[int]] = [[]]
        self.done = False
        self._ranges: list[tuple[IdRange, ...]] = []
        self._limits: list[tuple[int, int]] = []
        for phase in phases:
            codebooks = ranges[phase.kind]
            self._ranges.append(codebooks)
            self._limits.append(_frame_limits(phase, len(codebooks)))
        # Ids that the model has to read before it may choose again.
        self._forced_ids: list[int] = []
        # Probability that a timed span is still open, and the value at which it closes.
        self._survival = 1.0
        self._quantile = 0.5

    def choice(self) -> Choice:
        """Return what may be written next."""
        if self._forced_ids:
            return Choice(None, self._forced_ids[0])
        index = len(self.spans) - 1
        length = len(self.spans[-1])
        min_length, max_length = self._limits[index]
        codebooks = self._ranges[index]
        codebook = length % len(codebooks)
        # Only whole frames can be closed.
        may_close = length >= min_length and codebook == 0
        phase = self.phases[index]
        return Choice(
            id_range=codebooks[codebook] if length < max_length else None,
            closing_id=phase.closing_id if may_close else None,
            timed=phase.timed,
        )

    def should_close(self, probability: float, temperature: float, generator: Generator) -> bool:
        """Decide whether a timed span closes here.

        The length of the span is a quantile of the length distribution that the model implies. At temperature 1 the
        quantile is uniform, which equals sampling the closing id at every step. Lower temperatures draw it nearer to
        the median, so that no unit is far too short or too long.

        Args:
            probability: what the model gives to the closing id here.
            temperature: of the sampling.
            generator: used once for each span.
        """
        if self._survival == 1.0:
            uniform = generator.random()
            self._quantile = 0.5 + min(temperature, 1.0) * (uniform - 0.5)
        self._survival *= 1.0 - probability
        return self._survival < self._quantile

    def append(self, chosen_id: int) -> int:
        """Record the next id.

        Returns:
            The id that the model has to read: another than the chosen one where the phase forces ids on closing.
        """
        if self._forced_ids:
            return self._forced_ids.pop(0)
        index = len(self.spans) - 1
        is_last = index == len(self.phases) - 1
        phase = self.phases[index]
        if chosen_id != phase.closing_id:
            self.spans[-1].append(chosen_id)
            # A last span of maximum length needs no closing id.
            self.done = is_last and len(self.spans[-1]) == self._limits[index][1]
            return chosen_id
        if is_last:
            self.done = True
            return chosen_id
        self.spans.append([])
        self._survival = 1.0
        self._forced_ids = list(phase.forced_ids)
        return self._forced_ids.pop(0) if self._forced_ids else chosen_id

    def merged_spans(self) -> list[tuple[str, list[int]]]:
        """Return the kind and the ids of every span; spans that only forced ids separate count as one."""
        merged: list[tuple[str, list[int]]] = []
        continues = False
        for phase, span in zip(self.phases, self.spans, strict=False):
            if continues:
                merged[-1][1].extend(span)
            else:
                merged.append((phase.kind, list(span)))
            continues = bool(phase.forced_ids)
        return merged

    @property
    def num_spans_at_max(self) -> int:
        """Number of spans that reached their maximum length although they could have been shorter."""
        return sum(self._reached_max())

    @property
    def stop_reason(self) -> StopReason:
        """Why generation stopped, see `Generation`."""
        reached_max = self._reached_max()
        if not reached_max:
            return "constraint"
        # Some units may well last as long as the limit, so aligned speech is unfinished only if all of them do.
        is_aligned = any(phase.forced_ids for phase in self.phases)
        unfinished = all(reached_max) if is_aligned else any(reached_max)
        return "max_length" if unfinished else "end"

    def _reached_max(self) -> list[bool]:
        """For each span whose length was free: whether it has its maximum length."""
        reached = []
        for span, (min_length, max_length) in zip(self.spans, self._limits, strict=True):
            if min_length < max_length:
                reached.append(len(span) == max_length)
        return reached


def _frame_limits(phase: Phase, num_codebooks: int) -> tuple[int, int]:
    """Round the length limits of a phase to whole frames of K ids; codes are at least one frame, text can be empty."""
    min_length = max(phase.min_length, 1) if phase.kind == "codes" else phase.min_length
    min_length = -(-min_length // num_codebooks) * num_codebooks
    max_length = phase.max_length // num_codebooks * num_codebooks
    if min_length > max_length:
        raise ValueError(
            f"{phase.min_length} to {phase.max_length} ids hold no whole number of frames of {num_codebooks} "
            f"codebooks: count {num_codebooks} ids for each frame"
        )
    return min_length, max_length
