"""A token store: a folder of Parquet shards with the tokens of a corpus, and a manifest that vouches for them.

shard-00000.parquet ...   columns id, codes, num_samples, text, speaker and whatever else the corpus knew
manifest.json             the codec and its weight hash, rates, counts, code usage, a sha256 per shard
skipped.tsv               id, audio and reason of what could not be read, if there was any
listen/                   a few original and decoded recordings
progress/                 what an interrupted run continues from
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST = "manifest.json"
PROGRESS = "progress"


class TokenStore:
    """Read a token store; shards are read, and their hashes checked, when tokens are first asked for.

    `len(store)`, `store[i]` and iteration give dictionaries whose `codes` is a (L,) int64 array: the ids that the
    `AudioTokenizer` returned, K per frame where a codec has K codebooks. `store.manifest` is the manifest.

    Args:
        folder: made by `tokenize_corpus`.
        verify: check every shard's hash at once.

    Raises:
        OSError: the folder is no token store, an unfinished one, or one with missing shards.
        ValueError: a shard is not the one that was written.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        missing = [shard["file"] for shard in self.manifest["shards"] if not (self.folder / shard["file"]).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.folder} lacks {len(missing)} of {len(self.manifest['shards'])} shards, first {missing[0]}: "
                "copy the whole folder, or run the same tokenize command again, which makes only what is missing"
            )
        if verify:
            _ = self._table

    def __len__(self) -> int:
        return self.manifest["num_utterances"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of a token store with {len(self)}")
        row = self._table.slice(index % len(self), 1)
        values = {name: row.column(name)[0] for name in row.column_names if name != "codes"}
        codes = row.column("codes")[0].values.to_numpy().astype(np.int64)
        return {"id": values.pop("id").as_py(), "codes": codes, **{k: v.as_py() for k, v in values.items()}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def dataset(self) -> "Dataset":
        """The whole store, in memory, as a `datasets.Dataset` with the same columns."""
        from datasets import Dataset  # late: a second to import

        return Dataset(self._table)

    def split(self, test_fraction: float, seed: int = 0) -> "tuple[Dataset, Dataset]":
        """-> (train, test); an utterance's side follows from its id and the seed, whatever else the store holds.

        About `test_fraction` of the utterances are test, and at least one on each side unless the fraction is 0.
        """
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction must lie in 0 ... 1 (excluded), found {test_fraction}")
        if test_fraction and len(self) < 2:
            raise ValueError(f"{self.folder} has {len(self)} utterance, too few to split: use test_fraction=0")
        dataset = self.dataset()
        places = [_place(f"{seed}:{name}") for name in self._table.column("id").to_pylist()]
        order = np.argsort(places, kind="stable")
        count = sum(place < test_fraction for place in places)
        if test_fraction:
            count = min(max(count, 1), len(self) - 1)
        return dataset.select(np.sort(order[count:])), dataset.select(np.sort(order[:count]))

    def unigram_entropy(self) -> float:
        """Entropy of one token in nats: the loss of a model that knows only how frequent each token is here."""
        return self.manifest["unigram_entropy_bits"] * math.log(2)

    @cached_property
    def _table(self) -> pa.Table:
        return pa.concat_tables([_read_shard(self.folder / s["file"], s["sha256"]) for s in self.manifest["shards"]])


def describe(manifest: dict[str, Any]) -> str:
    """What a store holds, in a few lines for people."""
    codec, shards = manifest["codec"], len(manifest["shards"])
    hours = manifest["seconds"] / 3600
    duration = f"{hours:,.1f} h" if hours >= 1 else f"{manifest['seconds'] / 60:.1f} min"
    skipped = manifest["num_skipped"]
    rate = manifest["num_tokens"] / manifest["seconds"]
    return (
        f"{manifest['num_utterances'] + skipped:,} files, {duration}, {skipped:,} unreadable"
        f"{' (listed in skipped.tsv)' if skipped else ''}\n"
        f"{rate:.1f} tokens/s, {manifest['num_tokens']:,} tokens, {manifest['codes_used']:,} of "
        f"{codec['vocab_size']:,} codes used, unigram entropy {manifest['unigram_entropy_bits']:.2f} of "
        f"{math.log2(codec['vocab_size']):.2f} bits\n"
        f"{manifest['real_time_factor']:.1f}x real time per process\n"
        f"wrote {shards:,} shard{'s' if shards != 1 else ''} and {MANIFEST} (codec {codec['name']}, weights "
        f"{codec['weights_sha256'][:12]})"
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    if (folder / PROGRESS).is_dir():
        raise FileNotFoundError(
            f"{folder} is an unfinished token store (no {MANIFEST}): run the same tokenize command again, it continues"
        )
    raise FileNotFoundError(
        f"{folder} is no token store (no {MANIFEST}): make one with `focallm tokenize CORPUS {folder}`"
    )


def _read_shard(path: Path, expected: str) -> pa.Table:
    content = path.read_bytes()
    if sha256(content) != expected:
        raise ValueError(
            f"{path} is not the shard that {MANIFEST} describes (its sha256 differs): it is damaged or of another "
            "store; run the same tokenize command again, which makes it anew"
        )
    return pq.read_table(io.BytesIO(content))


def _place(key: str) -> float:
    """A place in [0, 1) that looks random and depends on the key only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
