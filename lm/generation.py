"""Constrained generation with a causal LM: only valid ids, within length limits. B rows, L length in ids, V ids.

A `RunningBatch` asks in each step the decoding constraints of all its items what may follow, samples one id for each
item, records it, and lets the model read it. Items join and leave between steps. Each depends only on its own prompt
and seed, except where rounding decides (docs/tasks.md).
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .constraints import Choice, DecodingConstraint, IdRange, StopReason, allowed_ranges
from .decoding import CausalDecoder, LlamaDecoder, PromptBatch, prefill
from .features import aligned_positions, embed, language_model, positions_from_mask, restart_ids
from .prompt_checks import check_prompt
from .sampling import Sampling, likeliest_bits, sample
from .templates import Prompt
from .vocabulary import Vocabulary

# Prompts in a batch: more would be faster on some machines, and exceed the memory of others.
_BATCH_SIZE = 16


@dataclass(frozen=True)
class Generation:
    """Output of a model for one prompt.

    Args:
        spans: one (N,) int64 for each span: codes as the codec's `decode` takes them, or ids of text. The units of
            aligned speech are one span.
        stop_reason: "end" if the model closed its output; "max_length" if a span reached its maximum length (in aligned
            speech: if all units did); "constraint" if the prompt fixed every length.
        num_spans_at_max: how many spans (in aligned speech: units) reached their maximum length.
        unit_lengths: in aligned speech, number of codes of each unit.
    """

    spans: tuple[Tensor, ...]
    stop_reason: StopReason
    num_spans_at_max: int = 0
    unit_lengths: tuple[int, ...] = ()

    @property
    def codes(self) -> Tensor:
        """The first span."""
        return self.spans[0]


@dataclass(frozen=True)
class CodeChunk:
    """Codes of a stream.

    Args:
        codes: as the codec's `decode` takes them. The last chunk of aligned speech may have none.
        unit_lengths: in aligned speech, number of codes of each unit that ended since the previous chunk.
    """

    codes: list[int]
    unit_lengths: tuple[int, ...] = ()


def generate(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> list[Generation]:
    """Write the output of each prompt, several at a time.

    Raises:
        ValueError: there are not as many seeds as prompts, `check_prompt` refuses a prompt, or the model gives logits
            that are not finite.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, or one for all, found {len(seeds)}")
    generations: list[Generation] = []
    for start in range(0, len(prompts), _BATCH_SIZE):
        items = []
        for i in range(start, min(start + _BATCH_SIZE, len(prompts))):
            items.append(Item(prompts[i], sampling, seeds[i], vocabulary))
        for _ in _steps(model, vocabulary, items):
            pass
        generations += [item.generation() for item in items]
    return generations


def stream(
    model: PreTrainedModel, vocabulary: Vocabulary, prompt: Prompt, sampling: Sampling, seed: int, chunk: int
) -> Generator[CodeChunk, None, Generation]:
    """Like `generate` for one prompt, but yield the codes of its first span of codes in chunks as they are written."""
    item = Item(prompt, sampling, seed, vocabulary)
    for _ in _steps(model, vocabulary, [item]):
        yield from item.take_chunks(chunk)
    return item.generation()


def _steps(model: PreTrainedModel, vocabulary: Vocabulary, items: list["Item"]) -> Iterator[None]:
    """Run the generation loop, and yield after each id that the items wrote."""
    was_training = model.training
    model.eval()
    try:
        batch = RunningBatch(model, vocabulary)
        batch.join(items)
        while batch.items:
            batch.write()
            for item in items:
                if item.error is not None:
                    raise item.error
            yield
            batch.read()
    finally:
        model.train(was_training)


class Item:
    """One prompt whose output is being written.

    Args:
        prompt: the prompt.
        sampling: how ids are sampled.
        seed: of the sampling.
        vocabulary: of the model.

    Attributes:
        constraint: what was written so far, and what may follow.
        generator: source of random numbers.
        rows: its rows in the decoder: that of the prompt and, with guidance, that of the unconditional prompt.
        next_id: the id that the model has to read next.
        error: why no more can be written.
        is_cancelled: whether nothing more is wanted.
    """

    def __init__(self, prompt: Prompt, sampling: Sampling, seed: int, vocabulary: Vocabulary) -> None:
        self.prompt = prompt
        self.sampling = sampling
        kinds: set[str] = {phase.kind for phase in prompt.phases}
        self.constraint = DecodingConstraint(prompt.phases, allowed_ranges(vocabulary, kinds))
        # A generator takes no negative seed.
        self.generator = np.random.default_rng(int(seed) % 2**64)
        self.rows: list[int] = []
        self.next_id = -1
        self.error: ValueError | None = None
        self.is_cancelled = False
        self._vocabulary = vocabulary
        # The spans to stream: the first one of codes. Each unit of aligned speech is a span, but all are one stream.
        kinds_in_order = [phase.kind for phase in prompt.phases]
        self._span = kinds_in_order.index("codes") if "codes" in kinds_in_order else 0
        self._last_span = self._span
        while prompt.phases[self._last_span].forced_ids:
            self._last_span += 1
        self._num_taken = 0  # ids of the present span
        self._pending: list[int] = []
        self._unit_lengths: list[int] = []

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be written."""
        return self.constraint.done or self.is_cancelled or self.error is not None

    def take_chunks(self, size: int) -> Iterator[CodeChunk]:
        """Yield the codes that were written and not yet yielded, `size` at a time; at the end of the span the rest."""
        spans = self.constraint.spans
        while self._span <= self._last_span:
            span = spans[self._span]
            self._pending += span[self._num_taken :]
            self._num_taken = len(span)
            is_closed = self.constraint.done or len(spans) > self._span + 1
            if not is_closed:
                break
            if self.prompt.phases[self._span].timed:
                self._unit_lengths.append(len(span))
            self._span += 1
            self._num_taken = 0
        is_complete = self._span > self._last_span
        while len(self._pending) >= size or (is_complete and (self._pending or self._unit_lengths)):
            yield CodeChunk(self._vocabulary.codes(self._pending[:size]), tuple(self._unit_lengths))
            self._pending = self._pending[size:]
            self._unit_lengths = []

    def generation(self) -> Generation:
        """Return what was written."""
        offsets = {"codes": self._vocabulary.audio_offset, "text": 0}
        spans = []
        for kind, ids in self.constraint.merged_spans():
            spans.append(torch.tensor(ids, dtype=torch.long) - offsets[kind])
        unit_lengths = []
        for phase, span in zip(self.prompt.phases, self.constraint.spans, strict=False):
            if phase.timed:
                unit_lengths.append(len(span))
        constraint = self.constraint
        return Generation(tuple(spans), constraint.stop_reason, constraint.num_spans_at_max, tuple(unit_lengths))


class RunningBatch:
    """Items whose steps the model runs together. Items join and leave between steps.

    Args:
        model: a causal LM, which must not be trained meanwhile.
        vocabulary: of the model.

    Attributes:
        items: those that take part in the next step.
    """

    def __init__(self, model: PreTrainedModel, vocabulary: Vocabulary) -> None:
        self.items: list[Item] = []
        self._model = model
        self._vocabulary = vocabulary
        self._decoder: LlamaDecoder | CausalDecoder | None = None

    @torch.no_grad()
    def join(self, items: Sequence[Item]) -> None:
        """Let the model read the prompts of some items, which then take part in every step.

        Raises:
            ValueError: `check_prompt` refuses a prompt, the features of one do not fit to it or to the model, or the
                model can take no items between steps. The items that run already are not affected.
        """
        # Unconditional prompts come after all prompts.
        ids = []
        unconditional_ids = []
        features = []
        max_new_ids = 0
        for item in items:
            check_prompt(self._model, item.prompt, item.sampling.guidance > 1)
            ids.append(item.prompt.ids)
            if item.sampling.guidance > 1:
                unconditional_ids.append(item.prompt.unconditional or [])
            if item.prompt.features is not None:
                features.append(item.prompt.features)
            max_new_ids = max(max_new_ids, item.prompt.max_new_ids)
        widths = {item.shape[1:] for item in features}
        if len(widths) > 1:
            raise ValueError(
                f"the features of prompts have different shapes, {sorted(widths)}: take those of one codec"
            )
        prompts = self._pad(ids + unconditional_ids, torch.cat(features) if features else None)
        first_row = sum(len(item.rows) for item in self.items)
        if self._decoder is None:
            self._decoder = prefill(language_model(self._model), prompts, max_new_ids)
        else:
            self._decoder.join(prompts, max_new_ids)
        unconditional_row = first_row + len(items)
        for row, item in enumerate(items, start=first_row):
            item.rows = [row]
            if item.sampling.guidance > 1:
                item.rows.append(unconditional_row)
                unconditional_row += 1
        self.items += items

    def _pad(self, rows: Sequence[Sequence[int]], features: Tensor | None) -> PromptBatch:
        """Embed the ids of prompts, padded on the left."""
        width = max(map(len, rows))
        pad_id = self._vocabulary.control("pad")
        padded_rows = []
        masks = []
        for row in rows:
            num_padding = width - len(row)
            padded_rows.append([pad_id] * num_padding + list(row))
            masks.append([0] * num_padding + [1] * len(row))
        ids = torch.tensor(padded_rows, device=self._model.device)
        mask = torch.tensor(masks, device=self._model.device)
        restarts = restart_ids(self._model)
        return PromptBatch(
            embeddings=embed(self._model, ids, features),
            mask=mask,
            positions=aligned_positions(ids, positions_from_mask(mask), restarts),
            restart_ids=frozenset(restarts),
        )

    @torch.no_grad()
    def write(self) -> None:
        """Let each item write one id. An item for which that fails gets an `error`."""
        # One operation serves all items that may write the same ids.
        groups: dict[tuple[Choice, Sampling], list[Item]] = {}
        for item in self.items:
            groups.setdefault((item.constraint.choice(), item.sampling), []).append(item)
        for (choice, sampling), items in groups.items():
            try:
                self._write(choice, sampling, items)
            except ValueError:
                # Only some of them are at fault. Nothing was sampled yet.
                for item in items:
                    try:
                        self._write(choice, sampling, [item])
                    except ValueError as error:
                        item.error = error

    def read(self) -> None:
        """Let the items that are finished leave, and the model read what the others wrote."""
        if not self.items:
            return
        assert self._decoder is not None
        remaining = [item for item in self.items if not item.is_finished]
        if len(remaining) < len(self.items):
            kept_rows: list[int] = []
            for item in remaining:
                kept_rows += item.rows
            kept_rows.sort()
            self._decoder.keep(kept_rows)
            for item in remaining:
                item.rows = [kept_rows.index(row) for row in item.rows]
            self.items = remaining
        if not remaining:
            # Only a `LlamaDecoder` is worth keeping, since it has copied the weights.
            if isinstance(self._decoder, CausalDecoder):
                self._decoder = None
            return
        ids = [0] * sum(len(item.rows) for item in remaining)
        for item in remaining:
            for row in item.rows:
                ids[row] = item.next_id
        with torch.no_grad():
            self._decoder.step(ids)

    # Writing: compute the logits of the ids that are allowed, sample, look up the ids.

    def _write(self, choice: Choice, sampling: Sampling, items: Sequence[Item]) -> None:
        """Write the next id of items that may write the same ids."""
        if choice.id_range is None:
            assert choice.closing_id is not None
            ids = [choice.closing_id] * len(items)
        else:
            logits = self._allowed_logits(choice, choice.id_range, sampling.guidance, items)
            columns = _sample_columns(logits, choice, choice.id_range, items, sampling)
            ids = _to_ids(columns, choice, choice.id_range)
        for item, chosen_id in zip(items, ids, strict=True):
            item.next_id = item.constraint.append(chosen_id)

    def _allowed_logits(self, choice: Choice, id_range: IdRange, guidance: float, items: Sequence[Item]) -> Tensor:
        """Return (B, V) logits of a range's ids and, in a last column, of the closing id where it is allowed."""
        assert self._decoder is not None
        rows = [item.rows[0] for item in items]
        if guidance > 1:
            rows += [item.rows[1] for item in items]
        logits = self._decoder.logits(rows, id_range.start, id_range.stop)
        if choice.closing_id is not None:
            closing = self._decoder.logits(rows, choice.closing_id, choice.closing_id + 1)
            logits = torch.cat([logits, closing], dim=-1)
        if guidance > 1:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + guidance * (conditional - unconditional)
        if id_range.banned_ids is None:
            return logits
        banned = id_range.banned_ids
        if choice.closing_id is not None:
            banned = torch.cat([banned, torch.zeros(1, dtype=torch.bool)])
        return logits.masked_fill(banned.to(logits.device), -torch.inf)


def _sample_columns(
    logits: Tensor, choice: Choice, id_range: IdRange, items: Sequence[Item], sampling: Sampling
) -> list[int]:
    """Sample one column of the logits (B, V) for each item."""
    closing_column = id_range.stop - id_range.start
    generators = []
    recent: list[list[int]] = []
    for item in items:
        generators.append(item.generator)
        last_ids = item.constraint.spans[-1][-sampling.repetition_window :] if sampling.repetition_window else []
        recent.append([i - id_range.start for i in last_ids])

    if choice.timed and choice.closing_id is not None:
        closing_probabilities = logits.float().softmax(-1)[:, -1].tolist()
        columns = sample(logits[:, :-1], sampling, generators, recent)
        for row, item in enumerate(items):
            if item.constraint.should_close(closing_probabilities[row], sampling.temperature, item.generator):
                columns[row] = closing_column
    else:
        columns = sample(logits, sampling, generators, recent)

    # All ids of a codebook are allowed, unlike those of text, whose bits mean nothing.
    if sampling.bitwise and id_range.banned_ids is None:
        codes = likeliest_bits(logits[:, :closing_column])
        for row, code in enumerate(codes):
            if columns[row] != closing_column:
                columns[row] = code
    return columns


def _to_ids(columns: Sequence[int], choice: Choice, id_range: IdRange) -> list[int]:
    """Return the ids that columns of the logits stand for."""
    closing_column = id_range.stop - id_range.start
    ids = []
    for column in columns:
        if column == closing_column:
            assert choice.closing_id is not None
            ids.append(choice.closing_id)
        else:
            ids.append(id_range.start + column)
    return ids
