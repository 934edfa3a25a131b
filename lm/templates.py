"""A task is a template: segments in order, each text, codes or features, each given or to be written.

L length in ids, N token frames, D feature width.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .vocabulary import Vocabulary

IGNORED = -100  # a label that adds nothing to the loss (transformers' convention)


@dataclass(frozen=True)
class Segment:
    """One span of a sequence, opened by its control token.

    Args:
        kind: what it holds; features are continuous and can only be given; aligned are codes with the units of the text
            that they say between them (`interleaving`), which need the fields `units` and `frames` too.
        control: name of the control token.
        field: column of the token store, and argument of the prompt.
        target: it is to be written; loss falls on targets, and on the end token after them.
        streams: the field is a list of equally long spans, and `<|speaker|>` stands between them.
    """

    kind: Literal["text", "codes", "features", "aligned"]
    control: str
    field: str
    target: bool = False
    streams: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("text", "codes", "features", "aligned"):
            raise ValueError(
                f"segment {self.field!r}: kind must be text, codes, features or aligned, found {self.kind!r}"
            )
        if not re.fullmatch(r"(?!audio_)[a-z][a-z0-9_]*", self.control):
            raise ValueError(
                f"segment {self.field!r}: a control is a lower-case word, not of the audio tokens, found "
                f"{self.control!r}"
            )
        if self.kind == "features" and self.target:
            raise ValueError(f"segment {self.field!r}: features are read, never written: make it a given, or codes")
        if self.kind == "aligned" and (not self.target or self.streams):
            raise ValueError(f"segment {self.field!r}: aligned is a target of one stream: make it one, or codes")


@dataclass(frozen=True)
class Phase:
    """One span that a model has to write.

    Args:
        kind: what it holds.
        min_length, max_length: in ids.
        closing: the id that closes it.
        forced_ids: ids that are read in the place of the closing one; the next phase then goes on with the same span.
        timed: whether to close is decided first, by the probability that the model gives it. Temperature and nucleus
            sharpen the choice among ids; where closing is one of them, it comes too early, since all others share what
            is left.
    """

    kind: Literal["text", "codes"]
    min_length: int
    max_length: int
    closing_id: int
    forced_ids: tuple[int, ...] = ()
    timed: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_length <= self.max_length or self.max_length < 1:
            raise ValueError(
                "a phase needs 0 <= min_length <= max_length and max_length >= 1, found "
                f"{(self.min_length, self.max_length)}"
            )


@dataclass(frozen=True)
class Prompt:
    """What is given to a model, and what it has to write after it.

    Args:
        ids: (L,) ids, up to the control token that opens the target.
        phases: the spans to write, in order.
        features: (N, D), one for each `<|feature|>` in `ids`.
        unconditional: the same ids with every given segment emptied, for classifier-free guidance.
    """

    ids: list[int]
    phases: tuple[Phase, ...]
    features: Tensor | None = None
    unconditional: list[int] | None = None

    @property
    def max_new_ids(self) -> int:
        """Maximum number of ids that may follow the prompt, including those that close a span before another."""
        return sum(phase.max_length + len(phase.forced_ids[1:]) for phase in self.phases) + len(self.phases) - 1

    def fit(self, num_positions: int) -> "Prompt":
        """Shorten the maximum length of free spans so that prompt and output fit into `num_positions`."""
        room = num_positions - len(self.ids) - len(self.phases)
        room -= sum(phase.min_length for phase in self.phases)
        phases = []
        for phase in self.phases:
            max_length = min(phase.max_length, phase.min_length + max(room, 0))
            phases.append(replace(phase, max_length=max_length))
        return replace(self, phases=tuple(phases))


@dataclass(frozen=True)
class Template:
    """Segments in order; the last one is the target, and `<|end|>` follows it."""

    name: str
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments or [segment.target for segment in self.segments] != [False] * self._given + [True]:
            raise ValueError(f"template {self.name!r} needs its last segment, and only that, to be a target")

    @classmethod
    def from_json(cls, values: Any) -> "Template":
        """What `dataclasses.asdict` made of a template, after JSON; a recipe writes the same.

        Raises:
            ValueError: no template.
        """
        try:
            return cls(**{**values, "segments": tuple(Segment(**segment) for segment in values["segments"])})
        except (KeyError, TypeError) as error:
            raise ValueError(
                "a template is {name, segments: [{kind, control, field, target, streams}, ...]}, found "
                f"{values!r} ({error})"
            ) from None

    @property
    def target(self) -> Segment:
        """What is to be written."""
        return self.segments[-1]

    @property
    def _given(self) -> int:
        return len(self.segments) - 1

    @property
    def uses_features(self) -> bool:
        """Whether a model needs a projector to read it."""
        return any(segment.kind == "features" for segment in self.segments)

    def example(self, vocabulary: Vocabulary, row: dict[str, Any], empty: bool = False) -> dict[str, Any]:
        """A row of a token store -> `input_ids` and `labels`, both (L,), and `features` (N, D) if there are any.

        Args:
            empty: leave the given segments empty, so that a model learns what classifier-free guidance compares with.
        """
        ids = self._prefix(vocabulary, row, empty)
        if self.target.kind == "aligned":
            span, labels = interleave(vocabulary, row["units"], _value(self.target, row), row["frames"])
        else:
            span = labels = _span(vocabulary, self.target, row)
        end = vocabulary.control("end")
        example: dict[str, Any] = {"input_ids": [*ids, *span, end], "labels": [IGNORED] * len(ids) + [*labels, end]}
        if self.uses_features:
            example["features"] = self._features(row, empty)
        return example

    def prompt(
        self,
        vocabulary: Vocabulary,
        length: tuple[int, int],
        streams: int = 1,
        begun: Any = None,
        **given: Any,
    ) -> Prompt:
        """Everything that is given, and what follows.

        Args:
            length: fewest and most ids to write (of each stream, or of each unit), beside what is begun.
            streams: how many spans of a target with streams.
            begun: the beginning of the target, which the model is to continue.
            given: values of the given segments, by field.
        """
        if self.target.kind == "aligned":
            return self._aligned_prompt(vocabulary, length, given)
        start = [] if begun is None else _ids(vocabulary, self.target.kind, begun)
        closings = [vocabulary.control(name) for name in ["speaker"] * (streams - 1) + ["end"]]
        kind = self.target.kind
        assert kind != "features"
        return Prompt(
            ids=self._prefix(vocabulary, given, empty=False) + start,
            phases=tuple(Phase(kind, *length, closing) for closing in closings),
            features=self._features(given, empty=False) if self.uses_features else None,
            unconditional=self._prefix(vocabulary, given, empty=True) + start,
        )

    def _aligned_prompt(self, vocabulary: Vocabulary, length: tuple[int, int], given: dict[str, Any]) -> Prompt:
        """A phase for the frames of every unit, between which the units are read."""
        first, *others = openings(vocabulary, given["units"])
        phases = [Phase("codes", *length, vocabulary.control("next"), tuple(opening), timed=True) for opening in others]
        return Prompt(
            ids=self._prefix(vocabulary, given, empty=False) + first,
            phases=(*phases, Phase("codes", *length, vocabulary.control("end"), timed=True)),
            features=self._features(given, empty=False) if self.uses_features else None,
            unconditional=self._prefix(vocabulary, given, empty=True) + first,
        )

    def _prefix(self, vocabulary: Vocabulary, row: dict[str, Any], empty: bool) -> list[int]:
        """The given segments, and the control token of the target."""
        ids: list[int] = []
        for segment in self.segments[:-1]:
            ids += [vocabulary.control(segment.control), *([] if empty else _span(vocabulary, segment, row))]
        return [*ids, vocabulary.control(self.target.control)]

    def _features(self, row: dict[str, Any], empty: bool) -> Tensor:
        """(N, D) of all segments with features, one after the other."""
        spans = [torch.as_tensor(_value(s, row)).float() for s in self.segments if s.kind == "features"]
        return torch.cat(spans)[: 0 if empty else None]


def controls(templates: Iterable[Template]) -> list[str]:
    """Names of the control tokens that open the segments of templates."""
    return list(dict.fromkeys(segment.control for template in templates for segment in template.segments))


def _span(vocabulary: Vocabulary, segment: Segment, row: dict[str, Any]) -> list[int]:
    value = _value(segment, row)
    if not segment.streams:
        return _ids(vocabulary, segment.kind, value)
    ids: list[int] = []
    for stream in value:
        ids += [vocabulary.control("speaker"), *_ids(vocabulary, segment.kind, stream)]
    return ids[1:]


def _ids(vocabulary: Vocabulary, kind: str, value: Any) -> list[int]:
    if kind == "features":
        return [vocabulary.control("feature")] * len(value)
    return vocabulary.text_ids(str(value)) if kind == "text" else vocabulary.audio_ids(value)


def _value(segment: Segment, row: dict[str, Any]) -> Any:
    value = row.get(segment.field)
    if value is None:
        found = sorted(k for k, v in row.items() if v is not None)
        raise ValueError(f"the template needs {segment.field!r}, found only {found}: was the corpus tokenized with it?")
    return value


def openings(vocabulary: Vocabulary, units: Sequence[str]) -> list[list[int]]:
    """The ids that are read before the frames of each unit."""
    spelt = [vocabulary.text_ids(unit) for unit in units]
    ahead = [*spelt[1:], [vocabulary.control("next")]]
    return [spelt[0] + ahead[0], *ahead[1:]]


def interleave(
    vocabulary: Vocabulary, units: Sequence[str], codes: Sequence[int], frames: Sequence[int]
) -> tuple[list[int], list[int]]:
    """-> ids and labels, both (L,), without the end

    Args:
        units: (U,) what is said.
        codes: (N * K,) of the codec.
        frames: (U,) how many of the N frames each unit lasts.

    Raises:
        ValueError: frames that are not those of the codes or of the units.
    """
    per_frame = vocabulary.codebooks
    if len(units) != len(frames) or sum(frames) * per_frame != len(codes):
        raise ValueError(
            f"{len(units)} units of {len(frames)} durations, {sum(frames)} frames in all, do not belong to "
            f"{len(codes)} codes of {per_frame} codebooks: align the store again"
        )
    audio = vocabulary.audio_ids(codes)
    ids, labels, start = list[int](), list[int](), 0
    for number, (opening, count) in enumerate(zip(openings(vocabulary, units), frames, strict=True)):
        end = start + int(count) * per_frame
        ids += [*opening, *audio[start:end]]
        first = [vocabulary.control("next")] if number else [IGNORED]
        labels += [*first, *[IGNORED] * (len(opening) - 1), *audio[start:end]]
        start = end
    return ids, labels
