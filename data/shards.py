"""What a token store is going to be: which codec, which utterances in which shard, and what is done already."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import nn

from ..tokenizer.codecs import CodecAdapter
from ..tokenizer.files import write_whole
from .token_store import CODES, FEATURES, PROGRESS, SOURCES, sha256
from .utterance import Utterance

if TYPE_CHECKING:
    from ..tokenizer.audio_tokenizer import AudioTokenizer


@dataclass(frozen=True)
class Shard:
    """A run of utterances of a corpus, its Parquet file, and the record that says that the file is whole."""

    path: Path
    items: Sequence[Utterance]

    def is_complete(self) -> bool:
        """Whether the record exists and the file is the one that it describes."""
        if not (self._record_path.is_file() and self.path.is_file()):
            return False
        return sha256(self.path.read_bytes()) == self.record()["sha256"]

    def record(self) -> dict[str, Any]:
        """Hash, counts, time and skipped items."""
        return json.loads(self._record_path.read_text(encoding="utf-8"))

    def write_record(self, record: dict[str, Any]) -> None:
        """Declare the shard complete."""
        write_whole(self._record_path, json.dumps(record, indent=1).encode())

    @property
    def _record_path(self) -> Path:
        return self.path.parent / PROGRESS / f"{self.path.stem}.json"


def claim(
    store: Path, corpus: Sequence[Utterance], codec: dict[str, Any], shard_size: int, about: dict[str, dict[str, Any]]
) -> list[Shard]:
    """Make the folder of a store, or make sure that the one that is there is to hold the same.

    `about` are further sections of the manifest that must not differ.

    Raises:
        ValueError: it holds something else; the message says what differs.
    """
    # The source of a codec is a name for people; its weights decide.
    wanted = {f"codec.{key}": value for key, value in codec.items() if key != "name"}
    wanted |= {"items_sha256": _items_hash(corpus), "number of utterances": len(corpus), "shard_size": shard_size}
    wanted |= {f"{section}.{key}": value for section, values in about.items() for key, value in values.items()}
    path = store / PROGRESS / "plan.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{key}: {found.get(key)} there, {wanted.get(key)} now"
            for key in {**wanted, **found}
            if found.get(key) != wanted.get(key)
        ]
        if differing:
            raise ValueError(
                f"{store} is a token store made by another codec, from other utterances or by another recipe, and "
                f"stores are not mixed ({'; '.join(differing)}). Name another folder, or delete this one to make it "
                "anew"
            )
    else:
        if store.exists() and not store.is_dir():
            raise ValueError(f"{store} is a file: name a folder for the token store")
        others = sorted(p.name for p in store.iterdir() if p.name != PROGRESS) if store.is_dir() else []
        if others:
            raise ValueError(
                f"{store} is not empty and no token store (it holds {others[:5]}): name a new folder for the tokens"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1).encode())
    starts = range(0, len(corpus), shard_size)
    return [Shard(store / f"shard-{n:05d}.parquet", corpus[s : s + shard_size]) for n, s in enumerate(starts)]


def describe_codec(tokenizer: "AudioTokenizer") -> dict[str, Any]:
    """The section `codec` of a manifest: two tokenizers with the same values, but for `name`, make the same tokens."""
    codec = tokenizer.codec
    model = codec.model if isinstance(codec, CodecAdapter) else codec  # adapters hold a model of transformers
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
    """sha256 of names, types, shapes and values of all weights, wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def schema(
    corpus: Sequence[Utterance], vocab_size: int, heard: str | None = None, feature_dim: int | None = None
) -> pa.Schema:
    """Columns of a store: the same in every shard, whatever its utterances know.

    Args:
        corpus: one utterance per row.
        vocab_size: of the codec.
        heard: what a model hears, if they are mixed: "noisy", "mixture" or "source".
        feature_dim: width of the features to store, if any.

    Raises:
        ValueError: no utterances, an id that occurs twice, an extra column of mixed kinds or with a name of ours.
    """
    if not corpus:
        raise ValueError("the corpus holds no utterances")
    seen: dict[str, Utterance] = {}
    for item in corpus:
        if item.id in seen:
            raise ValueError(
                f"two utterances have the id {item.id!r}, {seen[item.id].audio} and {item.audio}: ids must be unique"
            )
        seen[item.id] = item
    code = pa.uint16() if vocab_size <= 1 << 16 else pa.int32()
    fields = [
        pa.field("id", pa.string()),
        pa.field("codes", pa.list_(code)),
        pa.field("num_samples", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("speaker", pa.string()),
    ]
    if heard is not None:
        fields += _mixed_fields(heard, code)
    if feature_dim is not None:
        name = f"{heard}_features" if heard else "features"
        fields.append(pa.field(name, pa.list_(pa.list_(pa.float16(), feature_dim))))
    taken = {*CODES, *FEATURES, SOURCES, *(field.name for field in fields)}
    for name in sorted({name for item in corpus for name in item.extra}):
        if name in taken:
            raise ValueError(f"the corpus has an extra column {name!r}, which a token store has already: rename it")
        try:
            kind = pa.array([item.extra.get(name) for item in corpus]).type
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"the extra column {name!r} holds values of different kinds ({error}): make them one"
            ) from None
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


def _mixed_fields(heard: str, code: pa.DataType) -> list[pa.Field]:
    fields = [pa.field(f"{heard}_codes", pa.list_(code))]
    if heard == "mixture":
        fields.append(pa.field(SOURCES, pa.list_(pa.list_(code))))
        fields += [pa.field(name, pa.list_(pa.string())) for name in ("texts", "speakers")]
    return [*fields, pa.field("utterance", pa.string()), pa.field("mix", pa.string())]


def _items_hash(corpus: Sequence[Utterance]) -> str:
    """What is stored beside the tokens; not where the audio is, so that a corpus may move between two runs."""
    digest = hashlib.sha256()
    for item in corpus:
        row = [item.id, item.text, item.speaker, dict(item.extra)]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
