"""What is about to be learnt, shown to a person before it costs anything."""

import logging
import math
from pathlib import Path
from typing import Any

from ...data.batching import packing_efficiency
from ..features import language_model
from ..lora import count_trainable
from ..model import SpeechLM
from ..templates import IGNORED
from ..vocabulary import Vocabulary
from .examples import Examples
from .sound import write_spans

logger = logging.getLogger(__name__)


def preview(lm: SpeechLM, examples: Examples, fresh: bool, folder: Path) -> str:
    """One example per task with its labels and, as a file to hear, its target; lengths, parameters, expected losses.

    Args:
        lm: the model, before training.
        examples: to learn from.
        fresh: the model knows nothing yet, so its first loss can be told.
        folder: for the targets, `TASK.wav`.
    """
    lines: list[tuple[str, str]] = []
    first = 0
    for source, stats in zip(examples.sources, examples.stats, strict=True):
        if not stats.kept:
            lines.append((source.template.name, "no example"))
            continue
        example = examples.example(first)
        heard = decode_targets(lm, example, folder / source.template.name)
        lines += [
            (source.template.name, render(lm.vocabulary, example)),
            (
                "",
                f"{len(stats.kept)} examples{f', {source.repeat} times per epoch' * (source.repeat > 1)}, "
                f"{sum(stats.lengths)} ids, longest {max(stats.lengths)}; {stats.too_long} too long, left out",
            ),
            *[("", f"its target, decoded: {', '.join(map(str, heard))}")] * bool(heard),
        ]
        first += len(stats.kept) * source.repeat
    lines += [
        (
            "rows",
            f"{len(examples)} of up to {max(examples.row_lengths)} ids, "
            f"{100 * packing_efficiency(examples.lengths, examples.rows):.1f} % of them filled",
        ),
        ("parameters", parameters(lm)),
        ("expected loss", expected(lm, examples, fresh)),
    ]
    return "\n".join(f"{name:14} {text}" for name, text in lines)


def render(vocabulary: Vocabulary, example: dict[str, Any]) -> str:
    """An example as text: spans of audio and features collapsed, and everything that the loss sees in {braces}."""
    parts: list[tuple[bool, str, list[int]]] = []  # learnt, kind, ids
    for i, label in zip(example["input_ids"], example["labels"], strict=True):
        key = (label >= 0, _kind(vocabulary, i))
        if not parts or parts[-1][:2] != key:
            parts.append((*key, []))
        parts[-1][2].append(i)
    texts = [
        f"[{len(ids)} {kind}]" if kind != "text" else str(vocabulary.tokenizer.decode(ids)) for _, kind, ids in parts
    ]
    return "".join(f"{{{text}}}" if learnt else text for (learnt, _, _), text in zip(parts, texts, strict=True))


def decode_targets(lm: SpeechLM, example: dict[str, Any], name: Path) -> list[Path]:
    """Write every span of codes among the labels as audio, `name.wav` or `name-1.wav` ...; -> the files"""
    spans: list[list[int]] = [[]]
    between = {IGNORED, lm.vocabulary.controls.get("next", IGNORED)}  # units of aligned speech
    for label in example["labels"]:
        codes = lm.vocabulary.codes([label])
        if codes:
            spans[-1] += codes
        elif spans[-1] and label not in between:
            spans.append([])
    return list(write_spans(lm.audio_tokenizer, [span for span in spans if span], name))


def parameters(lm: SpeechLM) -> str:
    """How many parameters are trained, by where they are, and how many are not."""
    trained = count_trainable(lm.model, lm.vocabulary)
    frozen = sum(p.numel() for p in lm.model.parameters() if not p.requires_grad)
    parts = ", ".join(f"{count / 1e6:.2f} M {part}" for part, count in trained.items() if count)
    return f"{sum(trained.values()) / 1e6:.2f} M trained: {parts}; {frozen / 1e6:.2f} M frozen"


def expected(lm: SpeechLM, examples: Examples, fresh: bool) -> str:
    """Where the loss should begin, and below what it must fall."""
    size, rows = lm.vocabulary.audio_vocab_size, language_model(lm.model).config.vocab_size
    begin = (
        f"{math.log(rows):.2f} nats per target id at the start (ln {rows}; ln {size} = {math.log(size):.2f} for audio)"
        if fresh
        else f"about ln {size} = {math.log(size):.2f} nats per audio id at the start, more if the base prefers text"
    )
    tasks = ", ".join(
        f"{source.template.name} {stats.entropy:.2f}"
        for source, stats in zip(examples.sources, examples.stats, strict=True)
    )
    return f"{begin}, then below the unigram entropy of the targets: {tasks}"


def _kind(vocabulary: Vocabulary, i: int) -> str:
    if i in vocabulary.audio_range:
        return "audio"
    return "features" if i == vocabulary.control("feature") else "text"
