"""Corpus -> token store. Restartable: every shard is written whole, and a rerun makes only those that are missing."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..tokenizer.files import write_whole
from . import shards as plan
from .encoding import Encoder, Row
from .example import Example
from .merge import merge, write_listening
from .mixing import Mixer, Premixed
from .token_store import CODES, FEATURES, sha256
from .utterance import Utterance

if TYPE_CHECKING:
    from ..tokenizer.audio_tokenizer import AudioTokenizer

Make = Callable[[Utterance], Example]  # reads a row of the corpus, or mixes it


def tokenize_corpus(
    corpus: Sequence[Utterance] | Mixer | Premixed,
    store_folder: str | Path,
    tokenizer: "AudioTokenizer",
    *,
    features: bool = False,
    batch_seconds: float = 120.0,
    shard_size: int = 512,
    workers: int = 2,
    listen: int = 3,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Tokenize a corpus into a store (see `token_store`); continue there if an earlier run was stopped.

    Shard i holds utterances i * shard_size ... of the corpus, in its order, and depends on nothing else: not on the
    batches, workers, processes or interruptions. Files that cannot be read are skipped and listed in `skipped.tsv`;
    to have them after a repair, tokenize into a new folder.

    Args:
        corpus: from `read_corpus`, or a `Mixer` of one; the utterances are then its `rows`. Recordings that know their
            `sources` are stored as mixed ones are.
        store_folder: made if needed; an existing store must be of the same corpus, codec, recipe and shard size.
        tokenizer: the codec, on the device of your choice.
        features: store the continuous features of FocalCodec's encoder, too: of what a model hears, if it was mixed.
        batch_seconds: audio per batch, padding included; one utterance may be longer and is then alone.
        shard_size: utterances per shard.
        workers: threads that read audio ahead.
        listen: number of original and decoded pairs to write to `listen/`.
        rank, world_size: this process makes every world_size-th shard, beginning with shard `rank`. Taken from RANK and
            WORLD_SIZE, as set by `accelerate launch` and torchrun, if not given.
        progress: show a progress bar.

    Returns:
        The manifest, once all shards of all processes exist; None in a process that finishes before others.

    Raises:
        ValueError: an empty corpus, an id that occurs twice, nothing readable, or a folder with something else in it.
    """
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
    if not 0 <= rank < world_size or shard_size < 1 or workers < 1 or batch_seconds <= 0 or listen < 0:
        raise ValueError(
            "needed: 0 <= rank < world_size, shard_size and workers at least 1, batch_seconds above 0, listen at least "
            f"0; found {rank=}, {world_size=}, {shard_size=}, {workers=}, {batch_seconds=}, {listen=}"
        )
    store, rate = Path(store_folder), tokenizer.sampling_rate
    if not isinstance(corpus, Mixer | Premixed) and any(item.sources for item in corpus):
        corpus = Premixed(corpus)
    mixer, rows = (corpus, corpus.rows) if isinstance(corpus, Mixer | Premixed) else (None, corpus)
    make: Make = (lambda row: mixer.example(row, rate)) if mixer else (lambda row: Example(row, row.read(rate)[0]))
    encoder = Encoder(tokenizer, mixer.heard if mixer else None, features)
    codec = plan.describe_codec(tokenizer)
    schema = plan.schema(rows, codec["vocab_size"], encoder.heard, encoder.feature_dim)
    about = {"mix": mixer.describe()} if mixer else {}
    if features:
        about["features"] = {"column": encoder.features, "dim": encoder.feature_dim}
    shards = plan.claim(store, rows, codec, shard_size, about)
    mine = shards[rank::world_size]
    with ThreadPoolExecutor(workers) as pool, tqdm(
        total=sum(len(shard.items) for shard in mine), unit="file", disable=not progress or rank > 0
    ) as bar:  # fmt: skip
        for shard in mine:
            if shard.is_complete():
                bar.update(len(shard.items))
            else:
                _make_shard(shard, schema, make, encoder, batch_seconds / (mixer.signals if mixer else 1), pool, bar)
    if not all(shard.is_complete() for shard in shards):
        return None
    manifest = merge(store, shards, codec, about)
    write_listening(store, shards, tokenizer, listen, make if mixer else None)
    return manifest


def _make_shard(
    shard: plan.Shard,
    schema: pa.Schema,
    make: Make,
    encoder: Encoder,
    batch_seconds: float,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> None:
    start = perf_counter()
    results: list[Row | str] = [""] * len(shard.items)
    batches = _batches([seconds or 0.0 for seconds in pool.map(Utterance.duration, shard.items)], batch_seconds)
    for batch, futures in _read_ahead(shard.items, batches, make, pool):
        for index, result in zip(batch, _encode(futures, encoder), strict=True):
            results[index] = result
        bar.update(len(batch))
    rows = [result for result in results if not isinstance(result, str)]
    content = _parquet(rows, schema)
    pairs = zip(shard.items, results, strict=True)
    record = {
        "sha256": sha256(content),
        "bytes": len(content),
        "utterances": len(rows),
        "tokens": sum(len(row["codes"]) for row in rows),
        "samples": sum(row["num_samples"] for row in rows),
        "wall_s": perf_counter() - start,
        "skipped": [(item.id, str(item.audio), result) for item, result in pairs if isinstance(result, str)],
    }
    write_whole(shard.path, content)
    shard.write_record(record)


def _batches(seconds: list[float], batch_seconds: float) -> list[list[int]]:
    """Indices grouped by similar length, longest first, so that memory runs out at the start or never."""
    batches: list[list[int]] = []
    for index in sorted(range(len(seconds)), key=lambda i: -seconds[i]):
        if batches and seconds[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _read_ahead(
    items: Sequence[Utterance], batches: list[list[int]], make: Make, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[int], list[Future[Example]]]]:
    """Give each batch with its examples to come, while the next one is being made already."""
    started: deque[tuple[list[int], list[Future[Example]]]] = deque()
    for batch in batches:
        started.append((batch, [pool.submit(make, items[index]) for index in batch]))
        if len(started) > 1:
            yield started.popleft()
    yield from started


def _encode(futures: list[Future[Example]], encoder: Encoder) -> list[Row | str]:
    results: list[Row | str] = []
    examples: list[Example] = []
    for future in futures:
        try:
            examples.append(future.result())
            results.append("")  # its place, filled below
        except (OSError, ValueError) as error:
            results.append(" ".join(str(error).split()))
    places = [index for index, future in enumerate(futures) if future.exception() is None]
    for index, result in zip(places, encoder(examples), strict=True):
        results[index] = result
    return results


def _parquet(rows: list[Row], schema: pa.Schema) -> bytes:
    """The same rows give the same bytes: nothing in the file depends on time or place."""
    sink = io.BytesIO()
    columns = [_column([row.get(field.name) for row in rows], field) for field in schema]
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if field.name in CODES:
        values = [codes.astype(field.type.value_type.to_pandas_dtype()) for codes in values]
    if field.name in FEATURES and values:
        frames = pa.FixedSizeListArray.from_arrays(np.concatenate(values).ravel(), field.type.value_type.list_size)
        return pa.ListArray.from_arrays(np.cumsum([0, *map(len, values)]).astype(np.int32), frames)
    return pa.array(values, field.type)
