"""A task is a template: segments in order, each text or codes, each given or to be written. L length in ids."""

from dataclasses import dataclass
from typing import Any, Literal

from ..lm.vocabulary import Vocabulary

IGNORED = -100  # a label that adds nothing to the loss (transformers' convention)


@dataclass(frozen=True)
class Segment:
    """One span of a sequence, opened by its control token."""

    kind: Literal["text", "codes"]
    control: str  # name of the control token
    field: str  # column of the token store, or argument of the prompt
    target: bool = False  # loss falls on targets, and on the end token after them


@dataclass(frozen=True)
class Template:
    """Segments in order; the last one is a target, and `<|end|>` follows it."""

    name: str
    segments: tuple[Segment, ...]

    def example(self, vocabulary: Vocabulary, row: dict[str, Any]) -> dict[str, list[int]]:
        """A row of a token store -> `input_ids` and `labels`, both (L,)."""
        ids: list[int] = []
        labels: list[int] = []
        for segment in self.segments:
            span = _span(vocabulary, segment, row)
            ids += [vocabulary.control(segment.control), *span]
            labels += [IGNORED, *(span if segment.target else [IGNORED] * len(span))]
        end = vocabulary.control("end")
        return {"input_ids": [*ids, end], "labels": [*labels, end]}

    def prompt(self, vocabulary: Vocabulary, **given: Any) -> list[int]:
        """Everything that is given, and the control token that opens the first target."""
        ids: list[int] = []
        for segment in self.segments:
            ids.append(vocabulary.control(segment.control))
            if segment.target:
                break
            ids += _span(vocabulary, segment, given)
        return ids


def _span(vocabulary: Vocabulary, segment: Segment, row: dict[str, Any]) -> list[int]:
    value = row.get(segment.field)
    if value is None:
        found = sorted(k for k, v in row.items() if v is not None)
        raise ValueError(f"the template needs {segment.field!r}, found only {found}: was the corpus tokenized with it?")
    return vocabulary.text_ids(value) if segment.kind == "text" else vocabulary.audio_ids(value)


TTS = Template(
    "tts",
    (
        Segment("text", "voice", "speaker"),
        Segment("text", "text", "text"),
        Segment("codes", "speech", "codes", target=True),
    ),
)
TEMPLATES = {template.name: template for template in (TTS,)}
