"""A token store: a folder of Parquet shards with the tokens of a corpus, and a manifest with their hashes.

shard-00000.parquet ...   columns id, codes, num_samples, text, speaker and the extra columns of the corpus. Mixed
                          speech also has utterance (its id in the corpus), mix (what was drawn, as JSON), held_out
                          (whether it is mixed only of recordings that are held out from training) and the codes of
                          the model's input, as noisy_codes, mixture_codes or source_codes. Mixtures have
                          sources, texts and speakers, in the order in which the speakers start. `codes`,
                          text and speaker are those of the target, in a mixture of the first speaker. With --features:
                          features, or noisy_features and so on, (N50, D)
manifest.json             the codec with a hash of its weights, rates, counts, code usage, a sha256 per shard
skipped.tsv               id, audio and reason of everything that could not be read, if there was any
listen/                   a few original and decoded recordings
arrow/                    uncompressed copies for memory mapping, made when features are read and compared with the
                          shards whenever they are opened; may be deleted
progress/                 state from which an interrupted run continues
"""

import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from ..tokenizer.configs import check_keys, read_json
from ..tokenizer.runs import file_sha256
from .mapped_shards import map_shards
from .mixing.split import connect

if TYPE_CHECKING:
    from datasets import Dataset

    from ..tokenizer.audio_tokenizer import AudioTokenizer

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PROGRESS = "progress"
CODES = ("codes", "noisy_codes", "mixture_codes", "source_codes")
FEATURES = ("features", "noisy_features", "mixture_features", "source_features")
SOURCES = "sources"

# Keys of a manifest that are read, with their types.
_MANIFEST_KEYS = {
    **dict.fromkeys(("num_utterances", "num_skipped", "num_tokens", "codes_used"), int),
    **dict.fromkeys(("seconds", "unigram_entropy_bits", "real_time_factor"), float),
    "codec": dict[str, Any],
    "shards": list[dict[str, Any]],
}
_CODEC_KEYS = {
    **dict.fromkeys(("name", "weights_sha256"), str),
    **dict.fromkeys(("sampling_rate", "output_sampling_rate", "codebook_size", "num_codebooks", "vocab_size"), int),
    **dict.fromkeys(("frame_rate", "bits_per_second"), float),
}


class TokenStore:
    """Read a token store. The hashes of its shards are checked when tokens are first read.

    `len(store)`, `store[i]` and iteration give dictionaries. `codes` is a (L,) int64 array of the ids that the
    `AudioTokenizer` returned, K per frame for a codec with K codebooks; `noisy_codes` and the like are the same.
    `sources` is a list of such arrays, and features are (N50, D) float16.

    Args:
        folder: made by `tokenize_corpus`.
        verify: check the hashes of all shards at once.

    Attributes:
        manifest: content of `manifest.json`.

    Raises:
        OSError: The folder is not a token store, it is not finished, or shards are missing.
        ValueError: The content of a shard has changed.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        shards = self.manifest["shards"]
        missing = [shard["file"] for shard in shards if not (self.folder / shard["file"]).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.folder} lacks {len(missing)} of {len(shards)} shards, first {missing[0]}: copy the whole "
                "folder, or run the same tokenize command again, which makes only what is missing"
            )
        if verify:
            _ = self._shard_paths

    def __len__(self) -> int:
        return self.manifest["num_utterances"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of a token store with {len(self)}")
        row = self._table.slice(index % len(self), 1)
        return {name: _to_python(name, row.column(name)[0]) for name in row.column_names}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self)):
            yield self[index]

    @cached_property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return pq.read_schema(self.folder / self.manifest["shards"][0]["file"]).names

    @property
    def utterance_column(self) -> str:
        """The column with the id of the utterance. Several rows of a mixed store may come from one utterance."""
        return "utterance" if "mix" in self.manifest else "id"

    def dataset(self, columns: Sequence[str] | None = None) -> "Dataset":
        """Return the store, or some of its columns, as a `datasets.Dataset`.

        Datasets without features are loaded into memory. Features of a corpus may be larger than the memory, so
        datasets with features are mapped from disk.
        """
        from datasets import Dataset  # late: it takes a second to import

        columns = self.columns if columns is None else list(columns)
        if not set(columns) & set(FEATURES):
            return Dataset(pa.concat_tables([pq.read_table(path, columns=columns) for path in self._shard_paths]))
        folder = self.folder.absolute()
        return map_shards([folder / path.name for path in self._shard_paths], columns, folder / "arrow")

    def split(
        self, eval_fraction: float, seed: int = 0, columns: Sequence[str] | None = None
    ) -> "tuple[Dataset, Dataset]":
        """Split the store into a training and an evaluation dataset.

        The split of an utterance depends only on its id and the seed, so it stays the same when the corpus grows. All
        copies of a mixed utterance are in one split. Where recordings were mixed with each other, the split was made
        before (see `MixConfig.held_out`): the evaluation dataset then holds what was held out, and no recording in it
        is in the training dataset.

        Args:
            eval_fraction: approximate share of the utterances in the evaluation dataset. Unless it is 0, both datasets
                get at least one row. If the split was made before the mixing, only whether it is 0 matters.
            seed: seed of the split, unless it was made before the mixing.
            columns: names of the columns to read. None reads all.

        Returns:
            The training dataset and the evaluation dataset, each in the order of the store.

        Raises:
            ValueError: The fraction is out of range, or the store has fewer than two rows.
        """
        if not 0 <= eval_fraction < 1:
            raise ValueError(f"eval_fraction must lie in 0 ... 1 (excluded), found {eval_fraction}")
        if eval_fraction and len(self) < 2:
            raise ValueError(
                f"{self.folder} holds one utterance: at least two are needed, one for training and one for evaluation"
            )
        is_eval = np.zeros(len(self), bool)
        if eval_fraction:
            is_eval = self._choose_eval_rows(eval_fraction, seed)
        dataset = self.dataset(columns)
        return dataset.select(np.flatnonzero(~is_eval)), dataset.select(np.flatnonzero(is_eval))

    def _choose_eval_rows(self, eval_fraction: float, seed: int) -> NDArray[np.bool_]:
        """Return for each row whether it is in the evaluation dataset. Some rows are and some are not."""
        if "held_out" in self.columns:
            held_out = np.array(self.dataset(["held_out"])["held_out"][:], bool)
            if held_out.any() and not held_out.all():
                return held_out
        keys = np.array(self._recording_keys())
        if self._mixes_recordings or len(set(keys)) < 2:
            logger.warning(
                "%s: recordings in the rows to evaluate on are also trained on, so the evaluation loss is not that of "
                "unheard speech. To hold some out, tokenize more speakers with held_out above 0 in the --mix file",
                self.folder,
            )
        if len(set(keys)) < 2:
            keys = np.array(self.dataset(["id"])["id"][:])
        position_of = {key: _hash_to_unit(f"{seed}:{key}") for key in keys}
        order = sorted(position_of, key=position_of.__getitem__)
        num_eval = sum(position < eval_fraction for position in position_of.values())
        return np.isin(keys, order[: min(max(num_eval, 1), len(order) - 1)])

    def _recording_keys(self) -> list[str]:
        """Return a key for each row. Rows of the same utterance, or of mixtures that share one, have the same key."""
        if "mix" not in self.columns:
            return self.dataset(["id"])["id"][:]
        rows = self.dataset(["utterance", "mix"])
        recordings = []
        for utterance, mix in zip(rows["utterance"], rows["mix"], strict=True):
            recordings.append(json.loads(mix).get("utterances", [utterance]))
        first_id = connect(recordings)
        return [first_id[ids[0]] for ids in recordings]

    @property
    def _mixes_recordings(self) -> bool:
        """Whether a `Mixer` put several recordings of the corpus, or of noise, into one row."""
        mix = self.manifest.get("mix", {})
        noise = mix.get("noise") or {}
        return bool(mix.get("num_speakers") or noise.get("babble") or noise.get("recorded"))

    @cached_property
    def _table(self) -> pa.Table:
        return self.dataset().data.table

    @cached_property
    def _shard_paths(self) -> list[Path]:
        """Paths of the shards, after a check of their hashes."""
        paths = []
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            _check_hash(path, shard["sha256"])
            paths.append(path)
        return paths


class ReferenceDataset(Sequence[dict[str, Any]]):
    """Rows of a token store, each with a reference recording of the same speaker, for tasks that imitate a voice.

    Rows have the additional keys `reference_codes` and `reference_text`, of another utterance of the speaker. The
    choice depends only on the id of the row and the seed. Rows whose speaker has no other utterance are left out.

    Args:
        rows: dataset with `id`, `codes`, `speaker` and the column `key`. Rows without a speaker get no reference.
        pool: dataset that references are chosen from. It may be the same as `rows`.
        max_codes: highest number of codes of a reference, a whole number of frames.
        whole: use only utterances of at most `max_codes`, so that codes and text agree, instead of cutting longer ones.
        seed: seed of the choice.
        key: column with the id of the utterance, see `TokenStore.utterance_column`.
    """

    def __init__(
        self, rows: "Dataset", pool: "Dataset", max_codes: int, whole: bool, seed: int, key: str = "id"
    ) -> None:
        self.rows = rows
        self.pool = pool
        self.max_codes = max_codes
        candidates_of: dict[str, list[int]] = defaultdict(list)
        # Plain Python values: a numpy format would turn None into something else.
        plain_pool = pool.with_format(None)
        for index, (speaker, codes) in enumerate(zip(plain_pool["speaker"], plain_pool["codes"], strict=True)):
            if speaker is not None and (len(codes) <= max_codes or not whole):
                candidates_of[speaker].append(index)
        pool_utterances = list(pool[key])
        self.pairs: list[tuple[int, int]] = []  # indices into `rows` and `pool`
        columns = zip(rows["id"], rows[key], rows.with_format(None)["speaker"], strict=True)
        for row_index, (row_id, utterance, speaker) in enumerate(columns):
            candidates = candidates_of.get(speaker, [])
            reference = _choose_reference(candidates, pool_utterances, utterance, f"{seed}:{row_id}")
            if reference is not None:
                self.pairs.append((row_index, reference))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        """Return a row with its reference or, for the name of a column, the column without references."""
        if isinstance(index, str):
            column = self.rows.with_format(None)[index]
            return [column[row_index] for row_index, _ in self.pairs]
        row_index, reference_index = self.pairs[index]
        reference = self.pool[reference_index]
        return {
            **self.rows[row_index],
            "reference_codes": reference["codes"][: self.max_codes],
            "reference_text": reference.get("text"),
        }


def describe(manifest: dict[str, Any]) -> str:
    """Describe a token store in a few lines for people.

    Args:
        manifest: of the store.
    """
    codec = manifest["codec"]
    hours = manifest["seconds"] / 3600
    duration = f"{hours:,.1f} h" if hours >= 1 else f"{manifest['seconds'] / 60:.1f} min"
    num_files = manifest["num_utterances"] + manifest["num_skipped"]
    noun = f"{manifest['mix']['kind']} examples" if "mix" in manifest else "files"
    skipped = f"{manifest['num_skipped']:,} unreadable"
    if manifest["num_skipped"]:
        skipped += " (listed in skipped.tsv)"
    tokens_per_second = manifest["num_tokens"] / manifest["seconds"]
    num_shards = len(manifest["shards"])
    shards = "1 shard" if num_shards == 1 else f"{num_shards:,} shards"
    return (
        f"{num_files:,} {noun}, {duration}, {skipped}\n"
        f"{tokens_per_second:.1f} tokens/s, {manifest['num_tokens']:,} tokens, {manifest['codes_used']:,} of "
        f"{codec['vocab_size']:,} codes used, unigram entropy {manifest['unigram_entropy_bits']:.2f} of "
        f"{math.log2(codec['vocab_size']):.2f} bits\n"
        f"{manifest['real_time_factor']:.1f}x real time per process\n"
        f"wrote {shards} and {MANIFEST} (codec {codec['name']}, weights {codec['weights_sha256'][:12]})"
    )


def describe_codec(tokenizer: "AudioTokenizer") -> dict[str, Any]:
    """Return the section `codec` of a manifest.

    Tokenizers whose sections are equal in everything but `name` make the same tokens.
    """
    model = tokenizer.codec.pretrained_model
    return {
        "name": model.name_or_path or type(model).__name__,
        "weights_sha256": weights_hash(model),
        "sampling_rate": tokenizer.sampling_rate,
        "output_sampling_rate": tokenizer.output_sampling_rate,
        "frame_rate": tokenizer.frame_rate,
        "codebook_size": tokenizer.codebook_size,
        "num_codebooks": tokenizer.num_codebooks,
        "vocab_size": tokenizer.vocab_size,
        "bits_per_second": tokenizer.bits_per_second,
    }


def weights_hash(model: nn.Module) -> str:
    """Return the sha256 of the names, types, shapes and values of all weights. The device does not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def sha256(content: bytes) -> str:
    """Return the hexadecimal digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_file():
        manifest = read_json(path)
        check_keys(manifest, _MANIFEST_KEYS, str(path))
        check_keys(manifest["codec"], _CODEC_KEYS, f"{path}: codec")
        for shard in manifest["shards"]:
            check_keys(shard, {"file": str, "sha256": str}, f"{path}: shards")
        if not manifest["shards"] or manifest["seconds"] <= 0 or manifest["num_utterances"] < 1:
            raise ValueError(f"{path} describes an empty token store: run the same focallm tokenize command again")
        return manifest
    if (folder / PROGRESS).is_dir():
        raise FileNotFoundError(
            f"{folder} is an unfinished token store (no {MANIFEST}): run the same tokenize command again to continue"
        )
    raise FileNotFoundError(
        f"{folder} is not a token store (no {MANIFEST}): make one with `focallm tokenize CORPUS {folder}`"
    )


def _check_hash(path: Path, expected: str) -> None:
    if file_sha256(path) != expected:
        raise ValueError(
            f"{path} is not the shard that {MANIFEST} describes (its sha256 differs): it is damaged, or belongs to "
            "another store. Run the same tokenize command again to replace it"
        )


def _to_python(name: str, cell: pa.Scalar) -> Any:
    if name in CODES:
        return cell.values.to_numpy().astype(np.int64)
    if name == SOURCES:
        return [codes.values.to_numpy().astype(np.int64) for codes in cell]
    if name in FEATURES:
        return cell.values.flatten().to_numpy().reshape(-1, cell.type.value_type.list_size)
    return cell.as_py()


def _hash_to_unit(key: str) -> float:
    """Return a number in [0, 1) that looks random and depends only on the key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def _choose_reference(
    candidates: Sequence[int], pool_utterances: Sequence[str], utterance: str, key: str
) -> int | None:
    """Return the first candidate with another utterance, starting from a position that depends on the key."""
    if not candidates:
        return None
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(candidates)
    for candidate in [*candidates[start:], *candidates[:start]]:
        if pool_utterances[candidate] != utterance:
            return candidate
    return None
