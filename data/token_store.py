"""A token store: a folder of Parquet shards with the tokens of a corpus, and a manifest that vouches for them.

shard-00000.parquet ...   columns id, codes, num_samples, text, speaker and whatever else the corpus knew; of mixed
                          speech also utterance (its id in the corpus), mix (what was drawn, as JSON), the codes of
                          what a model hears, as noisy_codes, mixture_codes or source_codes, and of mixtures sources,
                          texts and speakers, in the order of first speech; `codes`, text and speaker are the target's,
                          of a mixture the first talker's. If asked for: features, or noisy_features ..., (N50, D)
manifest.json             the codec and its weight hash, rates, counts, code usage, a sha256 per shard
skipped.tsv               id, audio and reason of what could not be read, if there was any
listen/                   a few original and decoded recordings
arrow/                    made when features are read: uncompressed copies, for memory mapping; may be deleted
progress/                 what an interrupted run continues from
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST = "manifest.json"
PROGRESS = "progress"
CODES = ("codes", "noisy_codes", "mixture_codes", "source_codes")
FEATURES = ("features", "noisy_features", "mixture_features", "source_features")
SOURCES = "sources"


class TokenStore:
    """Read a token store; the hashes of its shards are checked when tokens are first asked for.

    `len(store)`, `store[i]` and iteration give dictionaries whose `codes` is a (L,) int64 array: the ids that the
    `AudioTokenizer` returned, K per frame where a codec has K codebooks. `noisy_codes` and the like are the same,
    `sources` is a list of such arrays, and features are (N50, D) float16. `store.manifest` is the manifest.

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
            _ = self._shards

    def __len__(self) -> int:
        return self.manifest["num_utterances"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of a token store with {len(self)}")
        row = self._table.slice(index % len(self), 1)
        return {name: _value(name, row.column(name)[0]) for name in row.column_names}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return pq.read_schema(self.folder / self.manifest["shards"][0]["file"]).names

    @property
    def utterance_column(self) -> str:
        """The column that says what was spoken: several rows of a mixed store may come from one utterance."""
        return "utterance" if "mix" in self.manifest else "id"

    def dataset(self, columns: Sequence[str] | None = None) -> "Dataset":
        """The store, or these columns of it, as a `datasets.Dataset`.

        It is in memory, but with features, of which a corpus has more than a machine can hold: these stay on disk.
        """
        from datasets import Dataset  # late: a second to import

        columns = self.columns if columns is None else list(columns)
        if not set(columns) & set(FEATURES):
            return Dataset(pa.concat_tables([pq.read_table(path, columns=columns) for path in self._shards]))
        mapped: Any = Dataset.from_parquet(
            [str(path.absolute()) for path in self._shards],
            columns=columns,
            cache_dir=str((self.folder / "arrow").absolute()),
        )
        return mapped

    def split(
        self, test_fraction: float, seed: int = 0, columns: Sequence[str] | None = None
    ) -> "tuple[Dataset, Dataset]":
        """-> (train, test); an utterance's side follows from its id and the seed, whatever else the store holds.

        All copies of a mixed utterance are on one side. Other talkers of mixtures and babble come from anywhere in the
        corpus: for a test on unheard speech, mix a corpus of its own.

        About `test_fraction` of the utterances are test, and at least one on each side unless the fraction is 0.
        """
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction must lie in 0 ... 1 (excluded), found {test_fraction}")
        if test_fraction and len(self) < 2:
            raise ValueError(f"{self.folder} holds one utterance: at least two are needed, one of them to test on")
        dataset, key = self.dataset(columns), self.utterance_column
        places = [_place(f"{seed}:{name}") for name in self.dataset([key])[key]]
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
        return self.dataset().data.table

    @cached_property
    def _shards(self) -> list[Path]:
        """Their paths, when their hashes are right."""
        return [_checked(self.folder / shard["file"], shard["sha256"]) for shard in self.manifest["shards"]]


def describe(manifest: dict[str, Any]) -> str:
    """What a store holds, in a few lines for people."""
    codec, shards = manifest["codec"], len(manifest["shards"])
    hours = manifest["seconds"] / 3600
    duration = f"{hours:,.1f} h" if hours >= 1 else f"{manifest['seconds'] / 60:.1f} min"
    skipped = manifest["num_skipped"]
    rate = manifest["num_tokens"] / manifest["seconds"]
    what = f"{manifest['mix']['kind']} examples" if "mix" in manifest else "files"
    return (
        f"{manifest['num_utterances'] + skipped:,} {what}, {duration}, {skipped:,} unreadable"
        f"{' (listed in skipped.tsv)' if skipped else ''}\n"
        f"{rate:.1f} tokens/s, {manifest['num_tokens']:,} tokens, {manifest['codes_used']:,} of "
        f"{codec['vocab_size']:,} codes used, unigram entropy {manifest['unigram_entropy_bits']:.2f} of "
        f"{math.log2(codec['vocab_size']):.2f} bits\n"
        f"{manifest['real_time_factor']:.1f}x real time per process\n"
        f"wrote {shards:,} shard{'s' if shards != 1 else ''} and {MANIFEST} (codec {codec['name']}, weights "
        f"{codec['weights_sha256'][:12]})"
    )


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


def _checked(path: Path, expected: str) -> Path:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{path} is not the shard that {MANIFEST} describes (its sha256 differs): it is damaged or of another "
            "store; run the same tokenize command again, which makes it anew"
        )
    return path


def _value(name: str, cell: pa.Scalar) -> Any:
    if name in CODES:
        return cell.values.to_numpy().astype(np.int64)
    if name == SOURCES:
        return [codes.values.to_numpy().astype(np.int64) for codes in cell]
    if name in FEATURES:
        return cell.values.flatten().to_numpy().reshape(-1, cell.type.value_type.list_size)
    return cell.as_py()


def _place(key: str) -> float:
    """A place in [0, 1) that looks random and depends on the key only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
