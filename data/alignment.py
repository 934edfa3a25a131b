"""What a token store says, unit by unit: which frames belong to which phoneme.

alignment.parquet   columns id, units, frames: of every utterance that could be aligned
lexicon.json        the phonemes of every word of the texts
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..tokenizer.files import write_whole
from .forced_alignment import align
from .phonemes import PAUSES, START, learn_lexicon, say
from .token_store import TokenStore

ALIGNMENT, LEXICON = "alignment.parquet", "lexicon.json"
_LONGEST_S = 0.6  # of a unit that is no pause: beyond, the text is not what is said


def align_store(folder: Path, texts: Iterable[str] = (), language: str = "en-us", progress: bool = True) -> str:
    """Align the texts of a store with its features, and write both files into it; -> what came out, in a line.

    Args:
        folder: of a store of one codec, with texts and features.
        texts: more texts, whose words go into the lexicon too.
        language: as espeak-ng calls it.

    Raises:
        ValueError: no features, no texts, or none that could be what is said.
    """
    store = TokenStore(folder)
    if "features" not in store.columns:
        raise ValueError(f"{folder} has no features: make it with\n  focallm tokenize CORPUS {folder} --features")
    rows = [row for row in store if row["text"]]
    if not rows:
        raise ValueError(f"{folder} has no texts: tokenize a corpus with transcripts (a manifest with the key text)")
    lexicon = learn_lexicon([*(row["text"] for row in rows), *texts], language)
    units = [_units(row["text"], lexicon) for row in rows]
    features = [_by_frame(row, store.manifest["codec"]["num_codebooks"]) for row in rows]
    usable = [i for i, own in enumerate(units) if own and len(features[i]) >= len(own)]
    if not usable:
        raise ValueError(f"no text of {folder} can be what its recording says: each has more phonemes than frames")
    said = [units[i] for i in usable]
    durations = align([features[i] for i in usable], said, progress)
    rate = store.manifest["codec"]["frame_rate"]
    kept = [
        {"id": rows[i]["id"], "units": own, "frames": frames}
        for i, own, frames in zip(usable, said, durations, strict=True)
        if all(n <= _LONGEST_S * rate or unit in (START, *PAUSES) for unit, n in zip(own, frames, strict=True))
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(kept), buffer)
    write_whole(folder / ALIGNMENT, buffer.getvalue())
    write_whole(folder / LEXICON, json.dumps(lexicon, ensure_ascii=False, indent=0).encode())
    count = sum(len(row["units"]) for row in kept)
    return (
        f"{folder / ALIGNMENT}: {len(kept)} of {len(store)} utterances, {count} units; "
        f"{folder / LEXICON}: {len(lexicon)} words"
    )


def read_alignment(folder: Path) -> dict[str, dict[str, Any]]:
    """Units and frames of the utterances of a store, by id.

    Raises:
        ValueError: the store has not been aligned.
    """
    return {row["id"]: row for row in pq.read_table(_existing(folder / ALIGNMENT)).to_pylist()}


def read_lexicon(folder: Path) -> dict[str, str]:
    """Words of a store and their phonemes.

    Raises:
        ValueError: the store has not been aligned.
    """
    return json.loads(_existing(folder / LEXICON).read_text(encoding="utf-8"))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with\n  focallm align {path.parent}")
    return path


def _by_frame(row: dict[str, Any], codebooks: int) -> np.ndarray:
    """(N, D) features at the times of the N frames of tokens, which can be rarer."""
    features, frames = row["features"], len(row["codes"]) // codebooks
    return features[np.arange(frames) * len(features) // max(frames, 1)]


def _units(text: str, lexicon: dict[str, str]) -> list[str]:
    try:
        return say(text, lexicon.__getitem__)
    except (KeyError, ValueError):  # a word without sound, or no word at all
        return []
