"""Measure how fast a language model trains on this machine, beside batches that are padded as the Trainer pads them.

The model and the examples are the same, and each way trains on every example once. So the seconds compare useful ids
per second: padding costs time and teaches nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...data.batching import Example, LengthGroupedSampler, PackCollator, pack
from ...lm.loading import make_llama
from ...lm.vocabulary import Vocabulary
from .record import make_record, make_row, take_turns

_REPEATS = 3
_BATCH_SIZE = 8
_MAX_LENGTH = 1024  # of a packed row, in ids
_MEDIAN_LENGTH = 300  # ids, as a sentence of 5 s has at 50 Hz
_CODEBOOK_SIZE = 8192


def benchmark_train(size: str, threads: int, num_examples: int = 32) -> dict[str, Any]:
    """Compare training batches of examples of similar length, and packed ones, with padded ones in random order.

    Args:
        size: name of a model size, such as "mini".
        threads: CPU threads.
        num_examples: examples of random ids, whose lengths vary as those of sentences do.

    Returns:
        A record, see `make_record`. It also has "useful_ids", and "positions": how many each way computes for them.

    Raises:
        ValueError: no size has this name, or a number is below 1.
    """
    for name, number in (("threads", threads), ("num_examples", num_examples)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, found {number}")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vocabulary = Vocabulary.characters(["abcdefghijklmnopqrstuvwxyz ."], _CODEBOOK_SIZE)
    model = make_llama(size, vocabulary).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    examples = _make_examples(vocabulary, num_examples)
    lengths = [len(example["input_ids"]) for example in examples]

    collate = PackCollator(vocabulary.control("pad"))
    order = np.random.default_rng(1).permutation(num_examples).tolist()
    sorted_order = list(LengthGroupedSampler(lengths, _BATCH_SIZE, seed=0))
    packed_rows = pack(lengths, _MAX_LENGTH)
    num_packed = max(1, _BATCH_SIZE * _MEDIAN_LENGTH // _MAX_LENGTH)  # about as many ids in a batch
    random_rows = [[i] for i in order]
    sorted_rows = [[i] for i in sorted_order]
    random_batches = _collate(collate, examples, random_rows, _BATCH_SIZE)
    for i, batch in enumerate(random_batches):
        _mask_padding(batch, [lengths[example] for example in order[i * _BATCH_SIZE : (i + 1) * _BATCH_SIZE]])
    ways = {
        "similar lengths": _collate(collate, examples, sorted_rows, _BATCH_SIZE),
        "packed": _collate(collate, examples, packed_rows, num_packed),
    }

    def train_on(batches: list[dict[str, Any]]) -> Callable[[], None]:
        def train() -> None:
            for batch in batches:
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        return train

    rows = []
    positions = {"random order": _count_positions(random_batches)}
    for name, batches in ways.items():
        our_seconds, their_seconds = take_turns(train_on(batches), train_on(random_batches), _REPEATS)
        rows.append(make_row(name, our_seconds, "random order, padded", their_seconds))
        positions[name] = _count_positions(batches)
    title = f"Training, {model.num_parameters() / 1e6:.1f} M parameters on the CPU, {sum(lengths)} ids"
    return make_record(title, threads, rows, useful_ids=sum(lengths), positions=positions)


def _make_examples(vocabulary: Vocabulary, num_examples: int) -> list[Example]:
    """Make examples of random codes, of which the first sixth has no loss, like a text."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(_MEDIAN_LENGTH), 0.6, num_examples).astype(int).clip(50, _MAX_LENGTH)
    first = vocabulary.audio_offset
    examples = []
    for length in lengths.tolist():
        ids = rng.integers(first, first + _CODEBOOK_SIZE, length).tolist()
        num_input = length // 6
        examples.append({"input_ids": ids, "labels": [-100] * num_input + ids[num_input:]})
    return examples


def _collate(
    collate: PackCollator, examples: Sequence[Example], rows: Sequence[list[int]], batch_size: int
) -> list[dict[str, Any]]:
    """Make batches of rows, each a list of indices of examples."""
    batches = []
    for start in range(0, len(rows), batch_size):
        batch = []
        for row in rows[start : start + batch_size]:
            batch.append([examples[i] for i in row])
        batches.append(collate(batch))
    return batches


def _mask_padding(batch: dict[str, Any], lengths: Sequence[int]) -> None:
    """Give a batch the attention mask of the collators of transformers, instead of positions."""
    columns = torch.arange(batch["input_ids"].shape[1])
    batch["attention_mask"] = (columns < torch.tensor(lengths)[:, None]).long()
    del batch["position_ids"]


def _count_positions(batches: list[dict[str, Any]]) -> int:
    return sum(batch["input_ids"].numel() for batch in batches)
