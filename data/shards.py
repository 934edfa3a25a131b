"""The shards of a token store: which utterances each holds, which are complete, and the manifest of all of them."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from ..tokenizer.configs import read_json
from ..tokenizer.files import remove_leftovers, write_whole
from .token_store import CODES, FEATURES, MANIFEST, PROGRESS, SOURCES, sha256
from .utterance import Utterance

FORMAT = "focallm token store 1"


@dataclass(frozen=True)
class Shard:
    """Consecutive utterances of a corpus, the Parquet file of their tokens, and the record of a complete file.

    Args:
        path: the Parquet file.
        utterances: what it holds.
    """

    path: Path
    utterances: Sequence[Utterance]

    def is_complete(self) -> bool:
        """Check that the record exists and the file has the hash in it."""
        if not (self._record_path.is_file() and self.path.is_file()):
            return False
        return sha256(self.path.read_bytes()) == self.record()["sha256"]

    def record(self) -> dict[str, Any]:
        """Read the record: hash, counts, wall time and skipped utterances."""
        return read_json(self._record_path)

    def write(self, content: bytes, record: dict[str, Any]) -> None:
        """Write the file and then its record, so that a file with a record is complete."""
        write_whole(self.path, content)
        write_whole(self._record_path, json.dumps(record, indent=1).encode())

    @property
    def _record_path(self) -> Path:
        return self.path.parent / PROGRESS / f"{self.path.stem}.json"


def plan_shards(
    store: Path,
    corpus: Sequence[Utterance],
    codec: dict[str, Any],
    shard_size: int,
    sections: dict[str, dict[str, Any]],
) -> list[Shard]:
    """Make the folder of a token store, or check that an existing one was planned for the same content.

    Args:
        store: the folder.
        corpus: one utterance per row.
        codec: the section `codec` of the manifest.
        shard_size: utterances per shard.
        sections: further sections of the manifest that must be the same.

    Returns:
        The shards. Shard i holds the utterances from i * shard_size on.

    Raises:
        ValueError: The folder holds something else. The message lists the differences.
    """
    # The name of a codec is for people; its weights decide.
    plan: dict[str, Any] = {f"codec.{key}": value for key, value in codec.items() if key != "name"}
    plan["items_sha256"] = _hash_utterances(corpus)
    plan["number of utterances"] = len(corpus)
    plan["shard_size"] = shard_size
    for section_name, section in sections.items():
        for key, value in section.items():
            plan[f"{section_name}.{key}"] = value

    path = store / PROGRESS / "plan.json"
    if path.is_file():
        _check_same_plan(store, read_json(path), plan)
    else:
        _check_empty(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(plan, indent=1).encode())
    shards = []
    for start in range(0, len(corpus), shard_size):
        number = start // shard_size
        shards.append(Shard(store / f"shard-{number:05d}.parquet", corpus[start : start + shard_size]))
    return shards


def _check_same_plan(store: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = []
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            differences.append(f"{key}: {found.get(key)} there, {wanted.get(key)} now")
    if differences:
        raise ValueError(
            f"{store} is a token store made by another codec, from other utterances or by another recipe, and stores "
            f"are not mixed ({'; '.join(differences)}). Name another folder, or delete this one to make it anew"
        )


def _check_empty(store: Path) -> None:
    if not store.exists():
        return
    if not store.is_dir():
        raise ValueError(f"{store} is a file: name a folder for the token store")
    names = sorted(path.name for path in store.iterdir() if path.name != PROGRESS)
    if names:
        raise ValueError(
            f"{store} is not empty and not a token store (it holds {names[:5]}): name a new folder for the tokens"
        )


def _hash_utterances(corpus: Sequence[Utterance]) -> str:
    """Hash what is stored beside the tokens. Paths are left out, so that a corpus may move between two runs."""
    digest = hashlib.sha256()
    for utterance in corpus:
        row = [utterance.id, utterance.text, utterance.speaker, dict(utterance.extra)]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def make_schema(
    corpus: Sequence[Utterance], vocab_size: int, input_name: str | None = None, feature_dim: int | None = None
) -> pa.Schema:
    """Return the columns of a store. They are the same in every shard, whatever is known about its utterances.

    Args:
        corpus: one utterance per row.
        vocab_size: of the codec.
        input_name: "noisy", "mixture" or "source" if the speech is mixed, None if not.
        feature_dim: width of the features, None if none are stored.

    Raises:
        ValueError: The corpus is empty, an id occurs twice, or an extra column has values of different types or the
            name of another column.
    """
    _check_ids(corpus)
    code_type = pa.uint16() if vocab_size <= 1 << 16 else pa.int32()
    fields = [
        pa.field("id", pa.string()),
        pa.field("codes", pa.list_(code_type)),
        pa.field("num_samples", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("speaker", pa.string()),
    ]
    if input_name is not None:
        fields.append(pa.field(f"{input_name}_codes", pa.list_(code_type)))
        if input_name == "mixture":
            fields.append(pa.field(SOURCES, pa.list_(pa.list_(code_type))))
            fields.append(pa.field("texts", pa.list_(pa.string())))
            fields.append(pa.field("speakers", pa.list_(pa.string())))
        fields.append(pa.field("utterance", pa.string()))
        fields.append(pa.field("mix", pa.string()))
        fields.append(pa.field("held_out", pa.bool_()))
    if feature_dim is not None:
        column = features_column(input_name)
        fields.append(pa.field(column, pa.list_(pa.list_(pa.float16(), feature_dim))))
    taken = {*CODES, *FEATURES, SOURCES, *(field.name for field in fields)}
    return pa.schema([*fields, *_extra_fields(corpus, taken)])


def features_column(input_name: str | None) -> str:
    """Return the name of the column with features: those of the model's input, if the speech is mixed."""
    return "features" if input_name is None else f"{input_name}_features"


def _check_ids(corpus: Sequence[Utterance]) -> None:
    if not corpus:
        raise ValueError("the corpus holds no utterances")
    seen: dict[str, Utterance] = {}
    for utterance in corpus:
        if utterance.id in seen:
            raise ValueError(
                f"two utterances have the id {utterance.id!r}, {seen[utterance.id].audio} and {utterance.audio}: ids "
                "must be unique"
            )
        seen[utterance.id] = utterance


def _extra_fields(corpus: Sequence[Utterance], taken: set[str]) -> list[pa.Field]:
    fields = []
    names: set[str] = set()
    for utterance in corpus:
        names.update(utterance.extra)
    for name in sorted(names):
        if name in taken:
            raise ValueError(f"the corpus has an extra column {name!r}, which every token store has: rename it")
        try:
            kind = pa.array([utterance.extra.get(name) for utterance in corpus]).type
            # Parquet knows fewer types than Arrow. An empty column tells.
            pq.write_table(pa.table({name: pa.array([], kind)}), io.BytesIO())
        # Arrow has no integers above 64 bits, and no text that is not valid Unicode.
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise ValueError(
                f"the extra column {name!r} holds values of different types, or such as cannot be stored ({error}): "
                "convert them to one type, for example to strings"
            ) from None
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return fields


def write_manifest(
    store: Path, shards: Sequence[Shard], codec: dict[str, Any], sections: dict[str, Any]
) -> dict[str, Any]:
    """Write `skipped.tsv` and `manifest.json` of a store whose shards are all complete.

    Processes that finish at the same time may all do this: they write the same.

    Args:
        store: the folder.
        shards: all shards.
        codec: the section `codec` of the manifest.
        sections: further sections: how the speech was mixed, what the features are.

    Returns:
        The manifest. Its counts are those of the column `codes`.

    Raises:
        ValueError: No utterance could be read.
    """
    skipped: list[list[str]] = []
    num_utterances = 0
    wall_s = 0.0
    shard_entries = []
    for shard in shards:
        record = shard.record()
        skipped += record["skipped"]
        num_utterances += record["utterances"]
        wall_s += record["wall_s"]
        shard_entries.append(
            {
                "file": shard.path.name,
                "sha256": record["sha256"],
                "bytes": record["bytes"],
                "utterances": record["utterances"],
                "tokens": record["tokens"],
            }
        )
    if skipped:
        _write_skipped(store / "skipped.tsv", skipped)
    if not num_utterances:
        raise ValueError(
            f"none of {len(skipped)} files could be read; the first: {skipped[0][2]}. All are in "
            f"{store / 'skipped.tsv'}; repair them and delete this folder before the next attempt"
        )
    counts = _count(shards, codec, len(skipped))
    manifest = {
        "format": FORMAT,
        "codec": codec,
        **sections,
        **counts,
        "wall_s": wall_s,  # of all processes together
        "real_time_factor": counts["seconds"] / wall_s,  # seconds of audio per second of one process
        "shards": shard_entries,
    }
    write_whole(store / MANIFEST, json.dumps(manifest, indent=1).encode())
    # Processes that were killed while they wrote leave temporary files behind.
    remove_leftovers(store)
    return manifest


def _write_skipped(path: Path, skipped: list[list[str]]) -> None:
    lines = []
    for row in [["id", "audio", "reason"], *skipped]:
        # Tabs and line breaks inside a cell would break the table.
        lines.append("\t".join(" ".join(str(cell).split()) for cell in row) + "\n")
    write_whole(path, "".join(lines).encode())


def _count(shards: Sequence[Shard], codec: dict[str, Any], num_skipped: int) -> dict[str, Any]:
    code_counts = np.zeros(codec["vocab_size"], np.int64)
    tokens_of_shards = []
    samples_of_shards = []
    speakers: set[str | None] = set()
    num_with_text = 0
    for shard in shards:
        table = pq.read_table(io.BytesIO(shard.path.read_bytes()), columns=["codes", "num_samples", "text", "speaker"])
        codes = table.column("codes").combine_chunks()
        code_counts += np.bincount(codes.values.to_numpy(), minlength=len(code_counts))
        tokens_of_shards.append(np.diff(codes.offsets.to_numpy()))
        samples_of_shards.append(table.column("num_samples").to_numpy())
        speakers.update(table.column("speaker").to_pylist())
        num_with_text += len(table) - table.column("text").null_count
    num_tokens = np.concatenate(tokens_of_shards)
    seconds = np.concatenate(samples_of_shards) / codec["sampling_rate"]
    return {
        "num_utterances": len(num_tokens),
        "num_skipped": num_skipped,
        "num_with_text": num_with_text,
        "num_speakers": len(speakers - {None}),
        "seconds": float(seconds.sum()),
        "num_tokens": int(num_tokens.sum()),
        "codes_used": int(np.count_nonzero(code_counts)),
        "unigram_entropy_bits": _entropy_bits(code_counts),
        "lengths": {"tokens": _quantiles(num_tokens), "seconds": _quantiles(seconds)},
    }


def _entropy_bits(counts: np.ndarray) -> float:
    frequencies = counts[counts > 0] / counts.sum()
    # The addition turns -0.0 into 0.0.
    return float(-(frequencies * np.log2(frequencies)).sum()) + 0.0


def _quantiles(values: ArrayLike) -> dict[str, float]:
    array = np.asarray(values, dtype=np.float64)
    minimum, median, p95, maximum = np.quantile(array, [0.0, 0.5, 0.95, 1.0]).tolist()
    return {"min": minimum, "median": median, "p95": p95, "max": maximum, "mean": float(array.mean())}
