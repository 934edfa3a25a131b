"""A preview of a training run, shown before it costs anything: examples, numbers of parameters, expected losses."""

import math
from pathlib import Path
from typing import Any

from ...data.batching import packing_efficiency
from ..features import language_model
from ..lora import count_trainable
from ..model import SpeechLM
from ..templates import IGNORED
from ..vocabulary import Vocabulary
from .dataset import DatasetStats, ExampleDataset, Source
from .samples import write_spans


def preview(lm: SpeechLM, dataset: ExampleDataset, is_new: bool, folder: Path) -> str:
    """Describe what a model is about to be trained on.

    For each task there is one example with its targets in braces, and its target decoded to a file; then lengths, the
    numbers of parameters and the expected losses.

    Args:
        lm: The model before training.
        dataset: The examples to train on.
        is_new: Whether the weights are fresh, so that the first loss can be predicted.
        folder: Where to write the targets, as `TASK.wav`.
    """
    lines: list[tuple[str, str]] = []
    first_example = 0
    for source, stats in zip(dataset.sources, dataset.stats, strict=True):
        name = source.template.name
        if not stats.kept_rows:
            lines.append((name, "no example"))
            continue
        example = dataset.example(first_example)
        first_example += len(stats.kept_rows) * source.repeat
        lines.append((name, render(lm.vocabulary, example)))
        lines.append(("", _describe_source(source, stats)))
        files = decode_targets(lm, example, folder / name)
        if files:
            lines.append(("", f"its target, decoded: {', '.join(map(str, files))}"))
    efficiency = 100 * packing_efficiency(dataset.lengths, dataset.rows)
    lines.append(("rows", f"{len(dataset)} of up to {max(dataset.row_lengths)} ids, {efficiency:.1f} % of them filled"))
    lines.append(("parameters", _describe_parameters(lm)))
    lines.append(("expected loss", _describe_expected_loss(lm, dataset, is_new)))
    return "\n".join(f"{name:14} {text}" for name, text in lines)


def render(vocabulary: Vocabulary, example: dict[str, Any]) -> str:
    """Render an example as text, with spans of audio and features collapsed, and all targets in {braces}."""
    text = ""
    span: list[int] = []
    previous = None
    for token_id, label in zip(example["input_ids"], example["labels"], strict=True):
        current = (label >= 0, _kind(vocabulary, token_id))
        if current != previous:
            text += _render_span(vocabulary, previous, span)
            span = []
        span.append(token_id)
        previous = current
    return text + _render_span(vocabulary, previous, span)


def _render_span(vocabulary: Vocabulary, key: tuple[bool, str] | None, ids: list[int]) -> str:
    """Render ids that are all targets or all input, and of one kind."""
    if key is None:
        return ""
    is_target, kind = key
    text = str(vocabulary.tokenizer.decode(ids)) if kind == "text" else f"[{len(ids)} {kind}]"
    return f"{{{text}}}" if is_target else text


def _kind(vocabulary: Vocabulary, token_id: int) -> str:
    if token_id in vocabulary.audio_range:
        return "audio"
    if token_id == vocabulary.control("feature"):
        return "features"
    return "text"


def decode_targets(lm: SpeechLM, example: dict[str, Any], name: Path) -> list[Path]:
    """Decode every span of codes among the targets of an example to a file, `name.wav`, or `name-1.wav` and so on."""
    # Between two units of aligned speech there are ids without loss and `<|next|>`: the speech goes on after them.
    inner_labels = {IGNORED, lm.vocabulary.controls.get("next", IGNORED)}
    spans: list[list[int]] = []
    span: list[int] = []
    for label in example["labels"]:
        codes = lm.vocabulary.codes([label])
        if codes:
            span += codes
        elif span and label not in inner_labels:
            spans.append(span)
            span = []
    if span:
        spans.append(span)
    return list(write_spans(lm.audio_tokenizer, spans, name))


def _describe_source(source: Source, stats: DatasetStats) -> str:
    repeat = f", {source.repeat} times per epoch" if source.repeat > 1 else ""
    return (
        f"{len(stats.kept_rows)} examples{repeat}, {sum(stats.lengths)} ids, longest {max(stats.lengths)}; "
        f"{stats.num_too_long} too long, left out"
    )


def _describe_parameters(lm: SpeechLM) -> str:
    """Describe how many parameters are trained, by part of the model, and how many are frozen."""
    trained = count_trainable(lm.model, lm.vocabulary)
    num_frozen = 0
    for parameter in lm.model.parameters():
        if not parameter.requires_grad:
            num_frozen += parameter.numel()
    parts = [f"{count / 1e6:.2f} M {part}" for part, count in trained.items() if count]
    return f"{sum(trained.values()) / 1e6:.2f} M trained: {', '.join(parts)}; {num_frozen / 1e6:.2f} M frozen"


def _describe_expected_loss(lm: SpeechLM, dataset: ExampleDataset, is_new: bool) -> str:
    """Describe where the loss should start, and below what it has to fall."""
    num_codes = lm.vocabulary.audio_vocab_size
    num_ids = language_model(lm.model).config.vocab_size
    if is_new:
        start = (
            f"{math.log(num_ids):.2f} nats per target id at the start (ln {num_ids}; ln {num_codes} = "
            f"{math.log(num_codes):.2f} for audio)"
        )
    else:
        start = (
            f"about ln {num_codes} = {math.log(num_codes):.2f} nats per audio id at the start, more if the base "
            "prefers text"
        )
    entropies = []
    for source, stats in zip(dataset.sources, dataset.stats, strict=True):
        entropies.append(f"{source.template.name} {stats.unigram_entropy:.2f}")
    return f"{start}, then below the unigram entropy of the targets: {', '.join(entropies)}"
