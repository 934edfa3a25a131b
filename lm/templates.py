"""A task is a template: segments of text, codes or features, in order. The last segment is the target.

A `Template` turns a row of a token store into a training example, and input values into a `Prompt` for generation. L
length in ids, N token frames, K codebooks, D feature width, U units of an aligned text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .vocabulary import Vocabulary

IGNORED = -100  # label that adds nothing to the loss, as in transformers
# Duration of a reference recording without transcript, which is cut to it, in training as in use.
MAX_REFERENCE_S = 3.0


@dataclass(frozen=True)
class Segment:
    """One span of a sequence, opened by its control token.

    Args:
        kind: what the span holds. Features are continuous and only an input. Aligned speech is codes with the units of
            their text in between, see `interleave`; it also needs the fields `units` and `frames`.
        control: name of the control token.
        field: column of the token store, and keyword of `Template.prompt`.
        target: whether the model writes the span. The loss covers targets and the end token after them.
        streams: whether the field is a list of spans of equal length, which `<|speaker|>` separates.
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
                f"segment {self.field!r}: a control is a lower-case word that does not start with audio_, found "
                f"{self.control!r}"
            )
        if self.kind == "features" and self.target:
            raise ValueError(
                f"segment {self.field!r}: features are read, never written: set target: false, or kind: codes"
            )
        if self.kind == "aligned" and (not self.target or self.streams):
            raise ValueError(
                f"segment {self.field!r}: aligned is a target of one stream: set target: true and streams: false, or "
                "kind: codes"
            )


@dataclass(frozen=True)
class Phase:
    """One span that a model has to write.

    Args:
        kind: what the span holds.
        min_length: minimum number of ids.
        max_length: maximum number of ids.
        closing_id: the id that closes the span.
        forced_ids: ids that the model reads in place of the closing id. The next phase then continues the same span.
        timed: whether to decide on closing first, with the probability that the model gives it. Temperature and nucleus
            sharpen the choice among ids. If closing is one of these, it comes too early, because all codes share the
            remaining probability.
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
    """What a model reads, and what it has to write after that.

    Args:
        ids: (L,) ids up to the control token that opens the target.
        phases: the spans to write, in order.
        features: (N, D), one for each `<|feature|>` in `ids`.
        unconditional: the ids with all input segments empty, for classifier-free guidance.
        units: of an aligned text, one for each phase.
        words: that are spoken in the units of an aligned text, in order.
    """

    ids: list[int]
    phases: tuple[Phase, ...]
    features: Tensor | None = None
    unconditional: list[int] | None = None
    units: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def max_new_ids(self) -> int:
        """Maximum number of ids that may follow the prompt, with the closing and forced ids between spans."""
        total = -1  # no id has to close the last span
        for phase in self.phases:
            # The first forced id takes the place of the closing id.
            num_closing = max(1, len(phase.forced_ids))
            total += phase.max_length + num_closing
        return total

    def fit(self, num_positions: int) -> "Prompt":
        """Shorten spans of free length so that prompt and output fit into a number of positions."""
        # Room for ids beyond the minimum length of all spans and their closing ids.
        room = num_positions - len(self.ids)
        for phase in self.phases:
            room -= phase.min_length + 1
        phases = []
        for phase in self.phases:
            max_length = min(phase.max_length, phase.min_length + max(room, 0))
            phases.append(replace(phase, max_length=max_length))
        return replace(self, phases=tuple(phases))


@dataclass(frozen=True)
class Template:
    """The segments of a task. The last one is the target, and `<|end|>` follows it.

    Args:
        name: of the task.
        segments: input segments, then the target.
    """

    name: str
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        num_targets = sum(segment.target for segment in self.segments)
        if not self.segments or num_targets != 1 or not self.target.target:
            raise ValueError(f"template {self.name!r} needs its last segment, and only that, to be a target")

    @property
    def target(self) -> Segment:
        """The segment that the model writes."""
        return self.segments[-1]

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the segments: columns of a token store, and arguments of `prompt`."""
        return tuple(segment.field for segment in self.segments)

    @property
    def uses_features(self) -> bool:
        """Whether a model needs a projector for features."""
        return any(segment.kind == "features" for segment in self.segments)

    def example(self, vocabulary: Vocabulary, row: dict[str, Any], empty: bool = False) -> dict[str, Any]:
        """Turn a row of a token store into a training example.

        Args:
            vocabulary: of the model.
            row: columns of the store.
            empty: leave the input segments empty, to train the unconditional model of classifier-free guidance.

        Returns:
            `input_ids` and `labels`, both (L,), and `features` (N, D) if the template has some.
        """
        prefix = self._prefix(vocabulary, row, empty)
        if self.target.kind == "aligned":
            ids, labels = interleave(vocabulary, row["units"], _value(self.target, row), row["frames"])
        else:
            ids = _segment_ids(vocabulary, self.target, row)
            labels = ids
        end_id = vocabulary.control("end")
        example: dict[str, Any] = {
            "input_ids": [*prefix, *ids, end_id],
            "labels": [IGNORED] * len(prefix) + [*labels, end_id],
        }
        if self.uses_features:
            example["features"] = self._features(row, empty)
        return example

    def prompt(
        self,
        vocabulary: Vocabulary,
        length: tuple[int, int],
        streams: int = 1,
        target_prefix: Any = None,
        **inputs: Any,
    ) -> Prompt:
        """Make the prompt for some inputs.

        Args:
            vocabulary: of the model.
            length: minimum and maximum number of ids to write for each stream, or for each unit of an aligned text;
                `target_prefix` does not count.
            streams: number of spans, for a target with streams.
            target_prefix: start of the target, which the model continues.
            inputs: values of the input segments, by field; `units` (U,) for an aligned target.
        """
        kind = self.target.kind
        assert kind != "features"
        if kind == "aligned":
            start, phases = _aligned_phases(vocabulary, length, inputs["units"])
        else:
            start = [] if target_prefix is None else _ids(vocabulary, kind, target_prefix)
            closings = ["speaker"] * (streams - 1) + ["end"]
            phases = [Phase(kind, *length, vocabulary.control(name)) for name in closings]
        return Prompt(
            ids=self._prefix(vocabulary, inputs, empty=False) + start,
            phases=tuple(phases),
            features=self._features(inputs, empty=False) if self.uses_features else None,
            unconditional=self._prefix(vocabulary, inputs, empty=True) + start,
            units=tuple(inputs["units"]) if kind == "aligned" else (),
        )

    def _prefix(self, vocabulary: Vocabulary, row: dict[str, Any], empty: bool) -> list[int]:
        """Return the ids of the input segments and the control token of the target."""
        ids: list[int] = []
        for segment in self.segments[:-1]:
            ids.append(vocabulary.control(segment.control))
            if not empty:
                ids += _segment_ids(vocabulary, segment, row)
        ids.append(vocabulary.control(self.target.control))
        return ids

    def _features(self, row: dict[str, Any], empty: bool) -> Tensor:
        """Return the features (N, D) of all segments that have some, one after the other."""
        spans = []
        for segment in self.segments:
            if segment.kind == "features":
                spans.append(torch.as_tensor(_value(segment, row)).float())
        features = torch.cat(spans)
        return features[:0] if empty else features


def control_names(templates: Iterable[Template]) -> list[str]:
    """Return the names of the control tokens that open the segments of templates."""
    names: dict[str, None] = {}
    for template in templates:
        for segment in template.segments:
            names[segment.control] = None
    return list(names)


def _segment_ids(vocabulary: Vocabulary, segment: Segment, row: dict[str, Any]) -> list[int]:
    value = _value(segment, row)
    if not segment.streams:
        return _ids(vocabulary, segment.kind, value)
    ids: list[int] = []
    for i, stream in enumerate(value):
        if i > 0:
            ids.append(vocabulary.control("speaker"))
        ids += _ids(vocabulary, segment.kind, stream)
    return ids


def _ids(vocabulary: Vocabulary, kind: str, value: Any) -> list[int]:
    if kind == "features":
        return [vocabulary.control("feature")] * len(value)
    if kind == "text":
        return vocabulary.text_ids(str(value))
    return vocabulary.audio_ids(value)


def _value(segment: Segment, row: dict[str, Any]) -> Any:
    value = row.get(segment.field)
    if value is None:
        found = sorted(name for name, other in row.items() if other is not None)
        raise ValueError(f"the template needs {segment.field!r}, found only {found}: was the corpus tokenized with it?")
    return value


# Aligned speech: each unit of a text (a phoneme or a pause) is followed by its frames.
#
#     u0 u1 [frames of u0] u2 [frames of u1] ... <|next|> [frames of the last unit] <|end|>
#
# The model reads a unit one span before its frames, so that it can prepare for what follows. In place of the next
# unit, the label is always `<|next|>`: the text is an input, and the model only chooses *when* to continue. With the
# whole text in front instead, a small model does not learn from a few hours of speech where in the text it is.


def unit_openings(vocabulary: Vocabulary, units: Sequence[str]) -> list[list[int]]:
    """Return the ids that come before the frames of each unit."""
    unit_ids = list(map(vocabulary.text_ids, units))
    openings = [*unit_ids[1:], [vocabulary.control("next")]]
    openings[0] = unit_ids[0] + openings[0]
    return openings


def interleave(
    vocabulary: Vocabulary, units: Sequence[str], codes: Sequence[int], frames: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Interleave the units of a text with their codes.

    Args:
        vocabulary: of the model.
        units: (U,) units of the text.
        codes: (N * K,) codes.
        frames: (U,) number of frames of each unit.

    Returns:
        Ids and labels, both (L,), without the end token.

    Raises:
        ValueError: the frames match neither the codes nor the units.
    """
    K = vocabulary.codebooks
    if len(units) != len(frames) or sum(frames) * K != len(codes):
        raise ValueError(
            f"{len(units)} units of {len(frames)} durations, {sum(frames)} frames in all, do not belong to "
            f"{len(codes)} codes of {K} codebooks: align the store again"
        )
    audio_ids = vocabulary.audio_ids(codes)
    ids: list[int] = []
    labels: list[int] = []
    start = 0
    for opening, num_frames in zip(unit_openings(vocabulary, units), frames, strict=True):
        # The first unit is an input. Later ones follow a choice of the model, which is the label of their first id.
        is_first = not ids
        labels.append(IGNORED if is_first else vocabulary.control("next"))
        labels += [IGNORED] * (len(opening) - 1)
        stop = start + int(num_frames) * K
        ids += [*opening, *audio_ids[start:stop]]
        labels += audio_ids[start:stop]
        start = stop
    return ids, labels


def _aligned_phases(
    vocabulary: Vocabulary, length: tuple[int, int], units: Sequence[str]
) -> tuple[list[int], list[Phase]]:
    """Return the ids that open aligned speech, and a phase for the frames of every unit."""
    openings = unit_openings(vocabulary, units)
    phases = []
    for opening in openings[1:]:
        phases.append(Phase("codes", *length, vocabulary.control("next"), tuple(opening), timed=True))
    phases.append(Phase("codes", *length, vocabulary.control("end"), timed=True))
    return openings[0], phases
