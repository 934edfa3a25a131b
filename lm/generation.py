"""Constrained generation with a causal LM: only valid ids, within length limits. B rows, L length in ids, V ids.

Each step asks the decoding constraints of all items what may follow, samples one id for each item, records it, and lets
the model read it. Each item depends only on its own prompt and seed, except where rounding decides (docs/tasks.md).
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .constraints import Choice, DecodingConstraint, IdRange, StopReason, allowed_ranges
from .decoding import CausalDecoder, LlamaDecoder, PromptBatch, prefill
from .features import aligned_positions, embed, language_model, max_positions, positions_from_mask, restart_ids
from .sampling import Sampling, likeliest_bits, sample
from .templates import Phase, Prompt
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
    """

    spans: tuple[Tensor, ...]
    stop_reason: StopReason
    num_spans_at_max: int = 0

    @property
    def codes(self) -> Tensor:
        """The first span."""
        return self.spans[0]


def as_prompt(
    prompt: Prompt | Sequence[int] | Tensor, length: tuple[int, int] | None, model: PreTrainedModel, end_id: int
) -> Prompt:
    """Return a `Prompt` unchanged; turn plain ids into a prompt for one span of codes.

    Args:
        prompt: a prompt or (L,) ids.
        length: minimum and maximum number of ids to write, for plain ids only. By default the maximum is what the
            positions of the model allow.
        model: the model that will read the prompt.
        end_id: the id that closes the span.

    Raises:
        ValueError: the prompt is a text, holds ids outside of the vocabulary, or comes with an empty length window or
            with a length that it states itself.
    """
    if isinstance(prompt, str):
        raise ValueError("a prompt is a list of ids, found a text: make a prompt with Template.prompt")
    if isinstance(prompt, Prompt):
        if length is not None:
            raise ValueError("a Prompt already states its lengths: pass length to Template.prompt instead")
        return prompt
    ids = list(map(int, prompt))
    vocab_size = model.config.get_text_config().vocab_size
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(
                f"ids are rows of the vocabulary, 0 to {vocab_size - 1}, found {i}: it may belong to another model"
            )
    min_length, max_length = length or (1, max_positions(model) - len(ids))
    if not 1 <= min_length <= max_length:
        raise ValueError(f"length needs 1 <= min_length <= max_length audio ids, found {(min_length, max_length)}")
    return Prompt(ids, (Phase("codes", min_length, max_length, end_id),))


def generate(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> list[Generation]:
    """Write the output of each prompt, several at a time.

    Raises:
        ValueError: there are not as many seeds as prompts, a prompt and its longest output exceed the model's
            positions, guidance is on and a prompt has no unconditional ids, or the model gives logits that are not
            finite.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, or one for all, found {len(seeds)}")
    generations: list[Generation] = []
    for start in range(0, len(prompts), _BATCH_SIZE):
        batch = slice(start, start + _BATCH_SIZE)
        generations += _generate_batch(model, vocabulary, prompts[batch], sampling, seeds[batch])
    return generations


def _generate_batch(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> list[Generation]:
    constraints = _constraints(vocabulary, prompts)
    for _ in _steps(model, vocabulary, prompts, constraints, sampling, seeds):
        pass
    return [_generation(constraint, vocabulary) for constraint in constraints]


def stream(
    model: PreTrainedModel, vocabulary: Vocabulary, prompt: Prompt, sampling: Sampling, seed: int, chunk: int
) -> Generator[list[int], None, Generation]:
    """Like `generate` for one prompt, but yield the codes of its first span of codes in chunks as they are written."""
    (constraint,) = _constraints(vocabulary, [prompt])
    first = 0
    while prompt.phases[first].kind != "codes":
        first += 1
    # Each unit of aligned speech is a phase, but all units are one stream of codes.
    last = first
    while prompt.phases[last].forced_ids:
        last += 1
    num_sent = 0
    for _ in _steps(model, vocabulary, [prompt], [constraint], sampling, [seed]):
        ids = list(chain.from_iterable(constraint.spans[first : last + 1]))
        is_closed = constraint.done or len(constraint.spans) > last + 1
        while len(ids) - num_sent >= chunk or (is_closed and len(ids) > num_sent):
            yield vocabulary.codes(ids[num_sent : num_sent + chunk])
            num_sent += chunk
    return _generation(constraint, vocabulary)


def _constraints(vocabulary: Vocabulary, prompts: Sequence[Prompt]) -> list[DecodingConstraint]:
    kinds: set[str] = set()
    for prompt in prompts:
        for phase in prompt.phases:
            kinds.add(phase.kind)
    # Items share the range objects, so that equal choices compare equal.
    ranges = allowed_ranges(vocabulary, kinds)
    return [DecodingConstraint(prompt.phases, ranges) for prompt in prompts]


def _generation(constraint: DecodingConstraint, vocabulary: Vocabulary) -> Generation:
    offsets = {"codes": vocabulary.audio_offset, "text": 0}
    spans = []
    for kind, ids in constraint.merged_spans():
        spans.append(torch.tensor(ids, dtype=torch.long) - offsets[kind])
    return Generation(tuple(spans), constraint.stop_reason, constraint.num_spans_at_max)


@dataclass
class _Item:
    """One item of the batch: its constraint and its source of random numbers."""

    constraint: DecodingConstraint
    generator: np.random.Generator


@torch.no_grad()
def _steps(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    constraints: Sequence[DecodingConstraint],
    sampling: Sampling,
    seeds: Sequence[int],
) -> Iterator[None]:
    """Run the generation loop, and yield after each id that the items wrote. Finished items leave the batch."""
    is_guided = sampling.guidance > 1
    _check_prompts(model, prompts, is_guided)
    items = []
    for constraint, seed in zip(constraints, seeds, strict=True):
        # A generator takes no negative seed.
        items.append(_Item(constraint, np.random.default_rng(int(seed) % 2**64)))
    was_training = model.training
    model.eval()
    try:
        decoder = _prefill(model, vocabulary, prompts, is_guided)
        while True:
            ids = []
            for item, chosen_id in zip(items, _choose(decoder, items, sampling), strict=True):
                ids.append(item.constraint.append(chosen_id))
            yield
            unfinished = [row for row, item in enumerate(items) if not item.constraint.done]
            if not unfinished:
                return
            if len(unfinished) < len(items):
                decoder.keep(_with_unconditional(unfinished, len(items), is_guided))
                items = [items[row] for row in unfinished]
                ids = [ids[row] for row in unfinished]
            decoder.step(ids * 2 if is_guided else ids)
    finally:
        model.train(was_training)


def _with_unconditional(rows: list[int], batch_size: int, is_guided: bool) -> list[int]:
    """Add the rows of the unconditional prompts, which come after those of all prompts."""
    return rows + [row + batch_size for row in rows] if is_guided else rows


def _check_prompts(model: PreTrainedModel, prompts: Sequence[Prompt], is_guided: bool) -> None:
    limit = max_positions(model)
    for prompt in prompts:
        if not prompt.ids:
            raise ValueError("a prompt needs at least one id: make it with a template, which opens the target")
        if len(prompt.ids) + prompt.max_new_ids > limit:
            raise ValueError(
                f"a prompt of {len(prompt.ids)} ids and up to {prompt.max_new_ids} ids after it exceed the model's "
                f"{limit} positions: shorten the prompt, or lower the maximum length"
            )
        if is_guided and prompt.unconditional is None:
            raise ValueError("guidance needs a prompt with unconditional ids: make it with a template")


def _prefill(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: Sequence[Prompt], is_guided: bool
) -> LlamaDecoder | CausalDecoder:
    """Let the model read all prompts, padded on the left; with guidance, B rows of unconditional prompts follow."""
    rows = [prompt.ids for prompt in prompts]
    if is_guided:
        rows += [prompt.unconditional or [] for prompt in prompts]
    width = max(map(len, rows))
    pad_id = vocabulary.control("pad")
    padded_rows = []
    masks = []
    for row in rows:
        num_padding = width - len(row)
        padded_rows.append([pad_id] * num_padding + row)
        masks.append([0] * num_padding + [1] * len(row))
    ids = torch.tensor(padded_rows, device=model.device)
    mask = torch.tensor(masks, device=model.device)
    features = []
    max_new_ids = 0
    for prompt in prompts:
        max_new_ids = max(max_new_ids, prompt.max_new_ids)
        if prompt.features is not None:
            features.append(prompt.features)
    restarts = restart_ids(model)
    batch = PromptBatch(
        embeddings=embed(model, ids, torch.cat(features) if features else None),
        mask=mask,
        positions=aligned_positions(ids, positions_from_mask(mask), restarts),
        restart_ids=frozenset(restarts),
    )
    return prefill(language_model(model), batch, max_new_ids)


# Choosing the next ids: group items by what they may write, compute the logits of those ids, sample, look up the ids.


def _choose(decoder: LlamaDecoder | CausalDecoder, items: Sequence[_Item], sampling: Sampling) -> list[int]:
    """Return the next id of each item."""
    ids = [-1] * len(items)
    for choice, rows in _group_rows(items).items():
        if choice.id_range is None:
            assert choice.closing_id is not None
            chosen = [choice.closing_id] * len(rows)
        else:
            logits = _allowed_logits(decoder, choice, choice.id_range, rows, len(items), sampling.guidance)
            columns = _sample_columns(logits, choice, choice.id_range, [items[row] for row in rows], sampling)
            chosen = _to_ids(columns, choice, choice.id_range)
        for row, chosen_id in zip(rows, chosen, strict=True):
            ids[row] = chosen_id
    return ids


def _group_rows(items: Sequence[_Item]) -> dict[Choice, list[int]]:
    """Group the rows that may write the same ids, so that one operation serves all of them."""
    groups: dict[Choice, list[int]] = {}
    for row, item in enumerate(items):
        groups.setdefault(item.constraint.choice(), []).append(row)
    return groups


def _allowed_logits(
    decoder: LlamaDecoder | CausalDecoder,
    choice: Choice,
    id_range: IdRange,
    rows: list[int],
    batch_size: int,
    guidance: float,
) -> Tensor:
    """Return (len(rows), V) logits of a range's ids and, in a last column, of the closing id where it is allowed."""
    is_guided = guidance > 1
    read_rows = _with_unconditional(rows, batch_size, is_guided)
    logits = decoder.logits(read_rows, id_range.start, id_range.stop)
    if choice.closing_id is not None:
        closing = decoder.logits(read_rows, choice.closing_id, choice.closing_id + 1)
        logits = torch.cat([logits, closing], dim=-1)
    if is_guided:
        conditional, unconditional = logits.chunk(2)
        logits = unconditional + guidance * (conditional - unconditional)
    if id_range.banned_ids is None:
        return logits
    banned = id_range.banned_ids
    if choice.closing_id is not None:
        banned = torch.cat([banned, torch.zeros(1, dtype=torch.bool)])
    return logits.masked_fill(banned.to(logits.device), -torch.inf)


def _sample_columns(
    logits: Tensor, choice: Choice, id_range: IdRange, items: Sequence[_Item], sampling: Sampling
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
