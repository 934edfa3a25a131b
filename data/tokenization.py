"""Corpus -> token store. Restartable: every shard is written whole, and a rerun makes only those that are missing."""

import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from ..tokenizer.audio import Waveform
from . import plan
from .merge import merge, write_listening
from .token_store import sha256, write_whole
from .utterance import Utterance

if TYPE_CHECKING:
    from ..tokenizer.audio_tokenizer import AudioTokenizer

Result = tuple[NDArray[Any], int] | str  # codes and number of samples, or why there are none


def tokenize_corpus(
    corpus: Sequence[Utterance],
    store_folder: str | Path,
    tokenizer: "AudioTokenizer",
    *,
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
        corpus: from `read_corpus`.
        store_folder: made if needed; an existing store must be of the same corpus, codec and shard size.
        tokenizer: the codec, on the device of your choice.
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
    store = Path(store_folder)
    codec = plan.describe_codec(tokenizer)
    schema = plan.schema(corpus, codec["vocab_size"])
    shards = plan.claim(store, corpus, codec, shard_size)
    mine = shards[rank::world_size]
    with ThreadPoolExecutor(workers) as pool, tqdm(
        total=sum(len(shard.items) for shard in mine), unit="file", disable=not progress or rank > 0
    ) as bar:  # fmt: skip
        for shard in mine:
            if shard.is_complete():
                bar.update(len(shard.items))
            else:
                _make_shard(shard, schema, tokenizer, batch_seconds, pool, bar)
    if not all(shard.is_complete() for shard in shards):
        return None
    manifest = merge(store, shards, codec)
    write_listening(store, shards, tokenizer, listen)
    return manifest


def _make_shard(
    shard: plan.Shard,
    schema: pa.Schema,
    tokenizer: "AudioTokenizer",
    batch_seconds: float,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> None:
    start = perf_counter()
    results: list[Result] = [""] * len(shard.items)
    batches = _batches([seconds or 0.0 for seconds in pool.map(Utterance.duration, shard.items)], batch_seconds)
    for batch, futures in _read_ahead(shard.items, batches, tokenizer.sampling_rate, pool):
        for index, result in zip(batch, _encode(futures, tokenizer), strict=True):
            results[index] = result
        bar.update(len(batch))
    pairs = list(zip(shard.items, results, strict=True))
    content = _parquet([(item, *result) for item, result in pairs if not isinstance(result, str)], schema)
    lengths = [(len(result[0]), result[1]) for _, result in pairs if not isinstance(result, str)]
    record = {
        "sha256": sha256(content),
        "bytes": len(content),
        "utterances": len(lengths),
        "tokens": sum(tokens for tokens, _ in lengths),
        "samples": sum(samples for _, samples in lengths),
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
    items: Sequence[Utterance], batches: list[list[int]], rate: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[int], list[Future]]]:
    """Give each batch with its waveforms to come, while the next one is being read already."""
    started: deque[tuple[list[int], list[Future]]] = deque()
    for batch in batches:
        started.append((batch, [pool.submit(items[index].read, rate) for index in batch]))
        if len(started) > 1:
            yield started.popleft()
    yield from started


def _encode(futures: list[Future], tokenizer: "AudioTokenizer") -> list[Result]:
    results: list[Result] = []
    waves: list[Waveform] = []
    for future in futures:
        try:
            waves.append(future.result()[0])
            results.append("")  # its place, filled below
        except (OSError, ValueError) as error:
            results.append(" ".join(str(error).split()))
    places = [index for index, future in enumerate(futures) if future.exception() is None]
    for index, result in zip(places, _encode_waves(waves, tokenizer), strict=True):
        results[index] = result
    return results


def _encode_waves(waves: list[Waveform], tokenizer: "AudioTokenizer") -> list[Result]:
    if not waves:
        return []
    try:
        encoded = tokenizer(waves, sampling_rate=tokenizer.sampling_rate)
    except ValueError as error:
        # One wave that the codec refuses must not take its batch along.
        if len(waves) == 1:
            return [" ".join(str(error).split())]
        return [result for wave in waves for result in _encode_waves([wave], tokenizer)]
    ids, masks = encoded["input_ids"].cpu().numpy(), encoded["attention_mask"].cpu().numpy().astype(bool)
    samples = [int(count) for count in encoded["num_samples"]]
    return [(codes[mask], count) for codes, mask, count in zip(ids, masks, samples, strict=True)]


def _parquet(rows: list[tuple[Utterance, NDArray[Any], int]], schema: pa.Schema) -> bytes:
    """The same rows give the same bytes: nothing in the file depends on time or place."""
    columns: dict[str, list[Any]] = {
        "id": [item.id for item, _, _ in rows],
        "codes": [codes.astype(schema.field("codes").type.value_type.to_pandas_dtype()) for _, codes, _ in rows],
        "num_samples": [samples for _, _, samples in rows],
        "text": [item.text for item, _, _ in rows],
        "speaker": [item.speaker for item, _, _ in rows],
    }
    columns |= {name: [item.extra.get(name) for item, _, _ in rows] for name in schema.names if name not in columns}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()
