"""Tokenize a corpus into a token store.

It can be stopped at any time: every shard is written whole, and the next run makes only the missing ones. T is the
number of samples, N50 the number of feature frames and D the feature width.
"""

import io
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..tokenizer.audio import write_audio
from ..tokenizer.files import printable
from ..tokenizer.focalcodec.inputs import group_items
from ..tokenizer.long_audio import MAX_WHOLE_S
from ..tokenizer.runs import locked
from ..tokenizer.waveform import Waveform
from .mixing.mixer import Mixer, Premixed
from .shards import Shard, features_column, make_schema, plan_shards, write_manifest
from .token_store import CODES, FEATURES, PROGRESS, SOURCES, TokenStore, describe_codec, sha256
from .utterance import AudioExample, Utterance

if TYPE_CHECKING:
    from ..tokenizer.audio_tokenizer import AudioTokenizer

_MAX_LISTEN_S = 30.0  # longer recordings are not written to listen/

MakeExample = Callable[[Utterance], AudioExample]  # reads a row of the corpus, or mixes it
Row = dict[str, Any]  # column -> value


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
    """Tokenize a corpus into a store (see `token_store`), or continue a run that was stopped.

    Shard i holds the utterances from i * shard_size on, in the order of the corpus. Its content depends on nothing
    else: not on batches, workers, processes or interruptions. Files that cannot be read are skipped and listed in
    `skipped.tsv`; to include them after a repair, tokenize into a new folder.

    Args:
        corpus: from `read_corpus`, or a `Mixer`, whose `rows` are then tokenized. Recordings with `sources` are stored
            like mixed ones.
        store_folder: is made if needed. An existing store must have the same corpus, codec, recipe and shard size.
        tokenizer: the codec, on the device of your choice.
        features: store continuous features of FocalCodec's encoder, too: those of the model's input, if it was mixed.
        batch_seconds: seconds of audio per batch, padding included. A longer utterance is a batch by itself.
        shard_size: utterances per shard.
        workers: number of threads that read audio ahead.
        listen: number of pairs of original and decoded recordings to write to `listen/`.
        rank: index of this process, which makes every world_size-th shard from shard `rank` on. Defaults to the
            environment variable RANK, which `accelerate launch` and torchrun set.
        world_size: number of processes. Defaults to the environment variable WORLD_SIZE.
        progress: show a progress bar.

    Returns:
        The manifest once all shards of all processes exist, None in a process that finishes before others.

    Raises:
        OSError: Another process with this rank writes to the store.
        ValueError: The corpus is empty, an id occurs twice, nothing is readable, or the folder holds something else.
    """
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
    is_allowed = {
        f"rank from 0 to {world_size - 1}, found {rank}": 0 <= rank < world_size,
        f"shard_size of at least 1, found {shard_size}": shard_size >= 1,
        f"workers of at least 1, found {workers}": workers >= 1,
        f"batch_seconds above 0, found {batch_seconds}": batch_seconds > 0,
        f"listen of at least 0, found {listen}": listen >= 0,
    }
    for condition, holds in is_allowed.items():
        if not holds:
            raise ValueError(f"tokenization needs {condition}")
    store = Path(store_folder)
    rows, mixer = _find_mixer(corpus)
    encoder = Encoder(tokenizer, None if mixer is None else mixer.input_name, features)
    make_example = _example_maker(mixer, tokenizer.sampling_rate)
    codec = describe_codec(tokenizer)
    schema = make_schema(rows, codec["vocab_size"], encoder.input_name, encoder.feature_dim)
    sections: dict[str, Any] = {}
    if mixer is not None:
        sections["mix"] = mixer.describe()
        # Every signal of an example is encoded.
        batch_seconds = batch_seconds / mixer.max_signals
    if features:
        sections["features"] = {"column": encoder.features_column, "dim": encoder.feature_dim}
    shards = plan_shards(store, rows, codec, shard_size, sections)

    shards_to_make = shards[rank::world_size]
    num_rows = sum(len(shard.utterances) for shard in shards_to_make)
    with locked(store, store / PROGRESS / f".lock-{rank}"):
        with (
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=num_rows, unit="file", disable=not progress or rank > 0) as bar,
        ):
            for shard in shards_to_make:
                if shard.is_complete():
                    bar.update(len(shard.utterances))
                else:
                    _make_shard(shard, schema, make_example, encoder, batch_seconds, pool, bar)
        if not all(shard.is_complete() for shard in shards):
            return None
        manifest = write_manifest(store, shards, codec, sections)
        _write_listening(store, rows, tokenizer, listen, None if mixer is None else make_example)
        return manifest


def _find_mixer(
    corpus: Sequence[Utterance] | Mixer | Premixed,
) -> tuple[Sequence[Utterance], Mixer | Premixed | None]:
    """Return the rows of the store and what makes their examples, None for plain speech."""
    if isinstance(corpus, Mixer | Premixed):
        return corpus.rows, corpus
    if any(utterance.sources for utterance in corpus):
        return corpus, Premixed(corpus)
    return corpus, None


def _example_maker(mixer: Mixer | Premixed | None, rate: int) -> MakeExample:
    def read(row: Utterance) -> AudioExample:
        wave, _ = row.read(rate)
        return AudioExample(row, wave)

    def mix(row: Utterance) -> AudioExample:
        assert mixer is not None
        return mixer.example(row, rate)

    return read if mixer is None else mix


class Encoder:
    """Turn audio examples into rows of a token store.

    Args:
        tokenizer: the codec.
        input_name: "noisy", "mixture" or "source" if the examples are mixed: how the columns of the model's input
            start. None if they are not.
        features: include the codec's continuous features of the model's input.

    Raises:
        ValueError: The codec has no features.
    """

    def __init__(self, tokenizer: "AudioTokenizer", input_name: str | None = None, features: bool = False) -> None:
        if features and tokenizer.codec.feature_dim is None:
            raise ValueError(
                f"features are the output of FocalCodec's encoder, and this codec is a {type(tokenizer.codec).__name__}"
                ": leave them out, or name a FocalCodec"
            )
        self.tokenizer = tokenizer
        self.input_name = input_name
        self.features_column = features_column(input_name)
        self.feature_dim: int | None = tokenizer.codec.feature_dim if features else None

    def __call__(self, examples: list[AudioExample]) -> list[Row | str]:
        """Encode a batch of examples. Returns the row of each, or the reason why it has none."""
        if not examples:
            return []
        try:
            return self._encode(examples)
        except ValueError as error:
            if len(examples) == 1:
                return [_one_line(error)]
        # The codec refuses one of the signals. Encode one by one, so that the others get their rows.
        rows: list[Row | str] = []
        for example in examples:
            rows += self([example])
        return rows

    def _encode(self, examples: list[AudioExample]) -> list[Row | str]:
        signals: list[Waveform] = []
        for example in examples:
            signals += example.signals
        encoded = self.tokenizer(signals, sampling_rate=self.tokenizer.sampling_rate)
        ids = encoded["input_ids"].cpu().numpy()
        masks = encoded["attention_mask"].cpu().numpy().astype(bool)
        codes = iter([row[mask] for row, mask in zip(ids, masks, strict=True)])
        rows: list[Row | str] = []
        for example in examples:
            rows.append(self._make_row(example, list(itertools.islice(codes, len(example.signals)))))
        return rows

    def _make_row(self, example: AudioExample, codes: list[NDArray[Any]]) -> Row:
        """Make a row. `codes` are those of `example.signals`, in the same order."""
        utterance = example.utterance
        row: Row = {**utterance.extra, "id": utterance.id, "codes": codes[0], "num_samples": len(example.target)}
        if example.input_audio is not None:
            row[f"{self.input_name}_codes"] = codes[1]
        if example.others:
            row[SOURCES] = [codes[0], *codes[2:]]
        if self.feature_dim is not None:
            row[self.features_column] = self._extract_features(
                example.target if example.input_audio is None else example.input_audio
            )
        return {**row, "text": utterance.text, "speaker": utterance.speaker, **example.columns}

    def _extract_features(self, wave: Waveform) -> NDArray[np.float16]:
        """(T,) -> (N50, D).

        Signals are not batched: padding may change the rounding of a feature, and with it the bytes of a store.
        """
        if len(wave) > MAX_WHOLE_S * self.tokenizer.sampling_rate:
            raise ValueError(f"features need audio of at most {MAX_WHOLE_S:.0f} s: cut it first")
        values = torch.from_numpy(wave)[None].to(self.tokenizer.device)
        return self.tokenizer.codec.extract_features(values)[0].half().cpu().numpy()


def _make_shard(
    shard: Shard,
    schema: pa.Schema,
    make_example: MakeExample,
    encoder: Encoder,
    batch_seconds: float,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> None:
    start = perf_counter()
    results: list[Row | str] = [""] * len(shard.utterances)
    durations = [seconds or 0.0 for seconds in pool.map(Utterance.duration, shard.utterances)]
    # Longest first, so that memory runs out at the start or never.
    batches = group_items(durations, batch_seconds)
    for batch, futures in _read_ahead(shard.utterances, batches, make_example, pool):
        for index, result in zip(batch, _encode_batch(futures, encoder), strict=True):
            results[index] = result
        bar.update(len(batch))
    rows: list[Row] = []
    skipped = []
    num_tokens = 0
    num_samples = 0
    for utterance, result in zip(shard.utterances, results, strict=True):
        if isinstance(result, str):
            skipped.append((utterance.id, printable(str(utterance.audio)), result))
        else:
            rows.append(result)
            num_tokens += len(result["codes"])
            num_samples += result["num_samples"]
    content = _to_parquet(rows, schema)
    record = {
        "sha256": sha256(content),
        "bytes": len(content),
        "utterances": len(rows),
        "tokens": num_tokens,
        "samples": num_samples,
        "wall_s": perf_counter() - start,
        "skipped": skipped,
    }
    shard.write(content, record)


def _read_ahead(
    utterances: Sequence[Utterance], batches: list[list[int]], make_example: MakeExample, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[int], list[Future[AudioExample]]]]:
    """Yield each batch with its examples, while the next batch is already being read."""
    started: deque[tuple[list[int], list[Future[AudioExample]]]] = deque()
    for batch in batches:
        started.append((batch, [pool.submit(make_example, utterances[index]) for index in batch]))
        if len(started) > 1:
            yield started.popleft()
    yield from started


def _encode_batch(futures: list[Future[AudioExample]], encoder: Encoder) -> list[Row | str]:
    """Return the row of each example, or the reason why it has none."""
    results: list[Row | str] = []
    examples: list[AudioExample] = []
    positions: list[int] = []  # of the examples in `results`
    for position, future in enumerate(futures):
        try:
            examples.append(future.result())
            positions.append(position)
            results.append("")
        # A header may announce more samples than fit into memory, or a rate to which nothing can be resampled.
        except (OSError, ValueError, MemoryError) as error:
            results.append(_one_line(error))
    for position, result in zip(positions, encoder(examples), strict=True):
        results[position] = result
    return results


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()) or f"it cannot be read ({type(error).__name__})")


def _to_parquet(rows: list[Row], schema: pa.Schema) -> bytes:
    """Equal rows give equal bytes: nothing in the file depends on the time or the machine."""
    columns = []
    for field in schema:
        columns.append(_to_arrow([row.get(field.name) for row in rows], field))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _to_arrow(values: list[Any], field: pa.Field) -> pa.Array:
    if field.name in CODES:
        dtype = field.type.value_type.to_pandas_dtype()
        values = [codes.astype(dtype) for codes in values]
    if field.name in FEATURES and values:
        # Arrow would convert (N50, D) arrays element by element.
        frames = pa.FixedSizeListArray.from_arrays(np.concatenate(values).ravel(), field.type.value_type.list_size)
        offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, frames)
    return pa.array(values, field.type)


def _write_listening(
    store: Path,
    utterances: Sequence[Utterance],
    tokenizer: "AudioTokenizer",
    number: int,
    make_example: MakeExample | None,
) -> None:
    """Write original and decoded recordings, spread over the store, to `listen/`.

    Args:
        store: the token store.
        utterances: one per row.
        tokenizer: the codec.
        number: how many to write.
        make_example: makes the examples of a mixed store, of which the model's input is written, too.
    """
    rows = TokenStore(store).dataset(["id", "codes", "num_samples"]).with_format("numpy")
    max_samples = _MAX_LISTEN_S * tokenizer.sampling_rate
    short = np.flatnonzero(np.asarray(rows["num_samples"][:]) <= max_samples)
    if not len(short):
        return
    utterance_of = {utterance.id: utterance for utterance in utterances}
    positions = np.linspace(0, len(short) - 1, number).astype(int)
    for index in short[np.unique(positions)].tolist():
        row = rows[index]
        safe_id = re.sub(r"[^\w.-]", "_", row["id"], flags=re.ASCII)
        stem = store / "listen" / f"{index:06d}_{safe_id[:80]}"
        # The last file to be written: a restarted run leaves what is complete.
        decoded_path = stem.with_name(f"{stem.name}.decoded.wav")
        if decoded_path.is_file():
            continue
        decoded_path.parent.mkdir(exist_ok=True)
        original_path = stem.with_name(f"{stem.name}.original.wav")
        utterance = utterance_of[row["id"]]
        if make_example is None:
            write_audio(original_path, *utterance.read())
        else:
            example = make_example(utterance)
            assert example.input_audio is not None
            write_audio(original_path, example.target, tokenizer.sampling_rate)
            write_audio(stem.with_name(f"{stem.name}.input.wav"), example.input_audio, tokenizer.sampling_rate)
        decoded = tokenizer.decode(row["codes"].astype(np.int64), int(row["num_samples"]))
        write_audio(decoded_path, decoded, tokenizer.output_sampling_rate)
