"""The end of tokenization: what all shards say together, and something to listen to."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from ..tokenizer.audio import write_audio
from ..tokenizer.files import write_whole
from .example import Example
from .shards import Shard
from .token_store import MANIFEST, TokenStore
from .utterance import Utterance

if TYPE_CHECKING:
    from ..tokenizer.audio_tokenizer import AudioTokenizer

_LISTEN_S = 30.0  # longer recordings are not chosen for listening


def merge(store: Path, shards: Sequence[Shard], codec: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Write `skipped.tsv` and `manifest.json` of a store whose shards are all complete; -> the manifest.

    `about` are further sections: how the speech was mixed, what its features are. Counts are about the column `codes`.

    Processes that finish together may all do it: they write the same.

    Raises:
        ValueError: no utterance could be read.
    """
    records = [shard.record() for shard in shards]
    skipped = [row for record in records for row in record["skipped"]]
    if skipped:
        lines = [
            "\t".join(" ".join(str(cell).split()) for cell in row) for row in (("id", "audio", "reason"), *skipped)
        ]
        write_whole(store / "skipped.tsv", ("\n".join(lines) + "\n").encode())
    if not any(record["utterances"] for record in records):
        raise ValueError(
            f"none of {len(skipped)} files could be read; the first: {skipped[0][2]}. All are in "
            f"{store / 'skipped.tsv'}; repair them and delete this folder before the next attempt"
        )
    counts = np.zeros(codec["vocab_size"], np.int64)
    tokens, samples, speakers, texts = [], [], set(), 0
    for shard in shards:
        table = pq.read_table(io.BytesIO(shard.path.read_bytes()), columns=["codes", "num_samples", "text", "speaker"])
        codes = table.column("codes").combine_chunks()
        counts += np.bincount(codes.values.to_numpy(), minlength=len(counts))
        tokens.append(np.diff(codes.offsets.to_numpy()))
        samples.append(table.column("num_samples").to_numpy())
        speakers.update(table.column("speaker").to_pylist())
        texts += len(table) - table.column("text").null_count
    lengths, seconds = np.concatenate(tokens), np.concatenate(samples) / codec["sampling_rate"]
    wall_s = sum(record["wall_s"] for record in records)
    manifest = {
        "format": "focallm token store 1",
        "codec": codec,
        **about,
        "num_utterances": len(lengths),
        "num_skipped": len(skipped),
        "num_with_text": texts,
        "num_speakers": len(speakers - {None}),
        "seconds": float(seconds.sum()),
        "num_tokens": int(lengths.sum()),
        "codes_used": int(np.count_nonzero(counts)),
        "unigram_entropy_bits": _entropy_bits(counts),
        "lengths": {"tokens": _spread(lengths), "seconds": _spread(seconds)},
        "wall_s": wall_s,  # of all processes together
        "real_time_factor": float(seconds.sum()) / wall_s,  # seconds of audio per second of one process
        "shards": [
            {"file": shard.path.name, **{key: record[key] for key in ("sha256", "bytes", "utterances", "tokens")}}
            for shard, record in zip(shards, records, strict=True)
        ],
    }
    write_whole(store / MANIFEST, json.dumps(manifest, indent=1).encode())
    for leftover in store.glob(".shard-*.part*"):  # of processes that were killed while they wrote
        leftover.unlink(missing_ok=True)
    return manifest


def write_listening(
    store: Path,
    shards: Sequence[Shard],
    tokenizer: "AudioTokenizer",
    number: int,
    make: Callable[[Utterance], Example] | None,
) -> None:
    """Write `number` pairs of original and decoded audio, spread over the store, to `listen/`.

    `make` makes the examples of a mixed store; what a model hears is then written, too.
    """
    rows = TokenStore(store).dataset(["id", "codes", "num_samples"]).with_format("numpy")
    limit = _LISTEN_S * tokenizer.sampling_rate
    short = [index for index, length in enumerate(rows["num_samples"]) if length <= limit]
    chosen = sorted({short[int(place)] for place in np.linspace(0, len(short) - 1, number)}) if short else []
    items = {item.id: item for shard in shards for item in shard.items}
    for index in chosen:
        row = rows[index]
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in row["id"])
        original, heard, decoded = (
            store / "listen" / f"{index:06d}_{name[:80]}.{kind}.wav" for kind in ("original", "heard", "decoded")
        )
        if decoded.is_file():
            continue
        decoded.parent.mkdir(exist_ok=True)
        if make is None:
            write_audio(original, *items[row["id"]].read())
        else:
            example = make(items[row["id"]])
            write_audio(original, example.target, tokenizer.sampling_rate)
            write_audio(heard, example.signals[1], tokenizer.sampling_rate)
        write_audio(
            decoded,
            tokenizer.decode(row["codes"].astype(np.int64), int(row["num_samples"])),
            tokenizer.output_sampling_rate,
        )


def _entropy_bits(counts: np.ndarray) -> float:
    frequencies = counts[counts > 0] / counts.sum()
    return float(-(frequencies * np.log2(frequencies)).sum()) + 0.0  # no -0.0


def _spread(values: ArrayLike) -> dict[str, float]:
    values = np.asarray(values, dtype=np.float64)
    spread = np.quantile(values, [0.0, 0.5, 0.95, 1.0])
    return {name: float(value) for name, value in zip(("min", "median", "p95", "max"), spread, strict=True)} | {
        "mean": float(values.mean())
    }
