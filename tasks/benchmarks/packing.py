"""Speed of training on packed rows, beside padded ones, on this machine."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ...data.batching import PackCollator
from ...data.sampler import LengthGroupedSampler
from ...data.shards import describe_codec
from ...data.token_store import TokenStore
from ...lm.templates import Segment, Template
from ...lm.training import Examples, LMRecipe, Source, build
from ...tokenizer import AudioTokenizer

_IDS = 4096  # positions of a batch, about
_ROW = 1024  # of a packed row
_STEPS = 5  # batches of each kind


def benchmark_packing(store: Path, threads: int) -> str:
    """A Markdown table of useful ids per second in training steps of the mini size; the kinds take turns.

    Args:
        store: a token store of the mini codec.
        threads: CPU threads.

    Raises:
        ValueError: a store of another codec.
    """
    torch.set_num_threads(threads)
    tokens, audio_tokenizer = TokenStore(store), AudioTokenizer.from_pretrained("mini")
    if tokens.manifest["codec"]["vocab_size"] != describe_codec(audio_tokenizer)["vocab_size"]:
        raise ValueError(f"{store} has tokens of another vocabulary than the mini codec's: tokenize with --codec mini")
    lm = build(LMRecipe(model="mini"), audio_tokenizer, [])
    template = Template("speech", (Segment("codes", "speech", "codes", target=True),))
    source = Source(template, tokens.dataset().with_format("numpy"))
    packed, padded = (Examples([source], lm.vocabulary, _ROW, packing=packing) for packing in (True, False))
    size = max(1, round(_IDS / float(np.mean(padded.lengths))))
    batches = {
        "padded, in any order": _batches(
            padded, size, iter(np.random.default_rng(0).permutation(len(padded)).tolist())
        ),
        "padded, like lengths together": _batches(padded, size, iter(LengthGroupedSampler(padded.lengths, size, 0))),
        "packed": _batches(packed, _IDS // _ROW, iter(LengthGroupedSampler(packed.row_lengths, 1, 0))),
    }
    collator = PackCollator(lm.vocabulary.control("pad"))
    optimizer = torch.optim.AdamW(lm.model.parameters())
    useful, positions, seconds = (dict.fromkeys(batches, 0.0) for _ in range(3))
    for step in range(1 + _STEPS):  # the first of each is not counted
        for kind, source_batches in batches.items():
            rows = next(source_batches)
            batch = collator(rows)
            began = time.perf_counter()
            lm.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step:
                seconds[kind] += time.perf_counter() - began
                useful[kind] += sum(len(example["input_ids"]) for row in rows for example in row)
                positions[kind] += batch["input_ids"].numel()
    lines = [
        f"training the mini size on {store.name}, {threads} threads, {_STEPS} batches of about {_IDS} positions each",
        "",
        "| rows | useful positions | useful ids per second |",
        "|---|---|---|",
    ]
    for kind in batches:
        lines.append(f"| {kind} | {100 * useful[kind] / positions[kind]:.1f} % | {useful[kind] / seconds[kind]:.0f} |")
    return "\n".join(lines)


def _batches(examples: Examples, size: int, order: Iterator[int]) -> Iterator[list]:
    """Rows, `size` at a time; begins again at its end."""
    places = list(order)
    while True:
        turn = iter(places)
        while len(batch := list(islice(turn, size))) == size:
            yield [examples[place] for place in batch]
