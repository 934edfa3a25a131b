"""Writing with a causal LM: only ids that make sense, never too short, never without end. B rows, L length in ids."""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .constraints import Block, StopReason, Walk, blocks
from .decoding import CausalDecoder, LlamaDecoder, Reading, decoder
from .features import embed, language_model, restart_ids
from .length import longest, positions
from .positions import aligned_positions, places
from .sampling import Sampling, draw, likeliest_bits
from .templates import Phase, Prompt
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Generation:
    """What a model wrote.

    Args:
        spans: one (N,) int64 for each phase: codes as the codec's `decode` takes them, or ids of text.
        stop_reason: "end": the model ended where it could choose; "length": a span reached the most that it might
            have; "constraint": every length was given.
    """

    spans: tuple[Tensor, ...]
    stop_reason: StopReason

    @property
    def codes(self) -> Tensor:
        """The first span."""
        return self.spans[0]


def as_prompt(
    prompt: Prompt | Sequence[int] | Tensor, length: tuple[int, int] | None, model: PreTrainedModel, end: int
) -> Prompt:
    """A prompt as it is; or ids, and after them one span of codes, by default as many as the model has positions for.

    Args:
        length: fewest and most ids to write, for a prompt of ids only.
        end: the id that closes the span.

    Raises:
        ValueError: a text, an empty window, or a length where the prompt says it already.
    """
    if isinstance(prompt, str):
        raise ValueError("a prompt is a list of ids, found a text: make one with a template, as focallm.tasks does")
    if isinstance(prompt, Prompt):
        if length is not None:
            raise ValueError("a Prompt says how much is to be written: give the length to Template.prompt instead")
        return prompt
    ids, rows = [int(i) for i in prompt], model.config.get_text_config().vocab_size
    wrong = [i for i in ids if not 0 <= i < rows]
    if wrong:
        raise ValueError(f"ids are rows of the vocabulary, 0 to {rows - 1}, found {wrong[0]}: look them up in it")
    fewest, most = length or (1, positions(model) - len(ids))
    if not 1 <= fewest <= most:
        raise ValueError(f"length needs 1 <= fewest <= most audio ids, found {(fewest, most)}")
    return Prompt(ids, (Phase("codes", fewest, most, end),))


def generate(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> list[Generation]:
    """Write what each prompt asks for; each item gets what it gets alone with its seed.

    Raises:
        ValueError: a prompt and its longest output exceed the model's positions, guidance without an emptied prompt, or
            a model whose logits are not numbers.
    """
    walks = _walks(vocabulary, prompts)
    for _ in _steps(model, vocabulary, prompts, walks, sampling, seeds):
        pass
    return [_generation(walk, vocabulary) for walk in walks]


def stream(
    model: PreTrainedModel, vocabulary: Vocabulary, prompt: Prompt, sampling: Sampling, seed: int, chunk: int
) -> Generator[list[int], None, Generation]:
    """As `generate`, but give the codes of the first span of codes while they are written, `chunk` at a time."""
    (walk,) = walks = _walks(vocabulary, [prompt])
    at = [phase.kind for phase in prompt.phases].index("codes")
    last = next(i for i, phase in enumerate(prompt.phases) if i >= at and not phase.follow)
    sent = 0
    for _ in _steps(model, vocabulary, [prompt], walks, sampling, [seed]):
        span = [i for part in walk.spans[at : last + 1] for i in part]
        closed = walk.done or len(walk.spans) > last + 1
        while len(span) - sent >= chunk or (closed and len(span) > sent):
            yield vocabulary.codes(span[sent : sent + chunk])
            sent += chunk
    return _generation(walk, vocabulary)


def _walks(vocabulary: Vocabulary, prompts: Sequence[Prompt]) -> list[Walk]:
    turns = blocks(vocabulary, {phase.kind for prompt in prompts for phase in prompt.phases})
    return [Walk(prompt.phases, turns) for prompt in prompts]


def _generation(walk: Walk, vocabulary: Vocabulary) -> Generation:
    offsets = {"codes": vocabulary.audio_offset, "text": 0}
    spans = [torch.tensor(span, dtype=torch.long) - offsets[kind] for kind, span in walk.joined()]
    return Generation(tuple(spans), walk.stop_reason)


@torch.no_grad()
def _steps(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    walks: Sequence[Walk],
    sampling: Sampling,
    seeds: Sequence[int],
) -> Iterator[None]:
    """Take every walk to its end, one id each between two yields; items that are done leave the batch."""
    guided = sampling.guidance > 1
    _check(model, prompts, guided)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    training = model.training
    model.eval()
    try:
        reader = _read(model, vocabulary, prompts, guided)
        active = list(range(len(walks)))
        while True:
            ids = _choose(reader, [walks[i] for i in active], sampling, [generators[i] for i in active])
            ids = [walks[i].take(chosen) for i, chosen in zip(active, ids, strict=True)]
            yield
            left = [row for row, i in enumerate(active) if not walks[i].done]
            if not left:
                return
            if len(left) < len(active):
                reader.keep(left + [row + len(active) for row in left] if guided else left)
                active, ids = [active[row] for row in left], [ids[row] for row in left]
            reader.step(ids * 2 if guided else ids)
    finally:
        model.train(training)


def _check(model: PreTrainedModel, prompts: Sequence[Prompt], guided: bool) -> None:
    limit = positions(model)
    for prompt in prompts:
        if not prompt.ids:
            raise ValueError(
                "a prompt needs at least one id: make it with a template, which opens what is to be written"
            )
        if len(prompt.ids) + longest(prompt) > limit:
            raise ValueError(
                f"a prompt of {len(prompt.ids)} ids and up to {longest(prompt)} ids after it exceed the model's "
                f"{limit} positions: give less, or ask for less"
            )
        if guided and prompt.unconditional is None:
            raise ValueError("guidance compares with a prompt whose given segments are empty: make it with a template")


def _read(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: Sequence[Prompt], guided: bool
) -> LlamaDecoder | CausalDecoder:
    """Padded on the left; with guidance, the emptied prompts are as many rows more."""
    rows = [prompt.ids for prompt in prompts] + [prompt.unconditional or [] for prompt in prompts if guided]
    width = max(map(len, rows))
    pad = vocabulary.control("pad")
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    features = [prompt.features for prompt in prompts if prompt.features is not None]
    restarts = restart_ids(model)
    reading = Reading(
        embed(model, ids, torch.cat(features) if features else None),
        mask,
        aligned_positions(ids, places(mask), restarts),
        frozenset(restarts),
    )
    return decoder(language_model(model), reading, max(map(longest, prompts)))


def _choose(
    reader: LlamaDecoder | CausalDecoder,
    walks: Sequence[Walk],
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> list[int]:
    """The next id of each walk; those that may go on in the same way are drawn together."""
    alike: dict[tuple[Block | None, int | None, bool], list[int]] = defaultdict(list)
    for row, walk in enumerate(walks):
        alike[(*walk.allowed(), walk.timed)].append(row)
    ids = [-1] * len(walks)
    for (block, closing, timed), rows in alike.items():
        if block is None:  # no choice
            columns, width, first = [0] * len(rows), 0, 0
        else:
            first, width = block.first, block.last - block.first
            scores = _scores(reader, block, closing, rows, len(walks), sampling.guidance)
            window = sampling.repetition_window
            recent = [[i - first for i in walks[row].spans[-1][-window:]] if window else [] for row in rows]
            own = [generators[row] for row in rows]
            if timed and closing is not None:
                shares = scores.float().softmax(-1)[:, -1].tolist()
                drawn = draw(scores[:, :-1], sampling, own, recent)
                columns = [
                    width if walks[row].closes(share, sampling.temperature, generator) else column
                    for row, share, generator, column in zip(rows, shares, own, drawn, strict=True)
                ]
            else:
                columns = draw(scores, sampling, own, recent)
            if sampling.bitwise and block.barred is None:  # codes: all of a block are allowed
                codes = likeliest_bits(scores[:, :width])
                columns = [column if column == width else code for column, code in zip(columns, codes, strict=True)]
        for row, column in zip(rows, columns, strict=True):
            chosen = closing if column == width else first + column
            assert chosen is not None
            ids[row] = chosen
    return ids


def _scores(
    reader: LlamaDecoder | CausalDecoder,
    block: Block,
    closing: int | None,
    rows: list[int],
    batch: int,
    guidance: float,
) -> Tensor:
    """(len(rows), V): logits of a block's ids and, in the last column, of the closing id where it may come."""
    read = rows + [row + batch for row in rows] if guidance > 1 else rows
    scores = reader.scores(read, block.first, block.last)
    if closing is not None:
        scores = torch.cat([scores, reader.scores(read, closing, closing + 1)], dim=-1)
    if guidance > 1:
        given, without = scores.chunk(2)
        scores = without + guidance * (given - without)
    if block.barred is None:
        return scores
    barred = block.barred if closing is None else torch.cat([block.barred, torch.zeros(1, dtype=torch.bool)])
    return scores.masked_fill(barred.to(scores.device), -torch.inf)
