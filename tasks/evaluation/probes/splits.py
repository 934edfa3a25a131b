"""From token stores to the rows that a probe learns from, is validated on and is tested on."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ....data.token_store import TokenStore
from ....tokenizer import AudioTokenizer
from ...training.sources import check_codec
from .probe_config import ProbeConfig

TRUTH = {"asr": "text", "speaker": "speaker", "emotion": "emotion"}  # task -> the column that it is to tell
SPLITS = ("train", "validation", "test")


def read_splits(
    task: str, store: Path, recipe: ProbeConfig, audio_tokenizer: AudioTokenizer, codec: str
) -> dict[str, Dataset]:
    """Rows of each of `SPLITS`, with the columns id, input, truth and num_samples.

    Shares are of the utterances of each class, or of all where the truth is a text, and follow from the seed. All rows
    that a mixed store has of an utterance are on one split.

    Raises:
        ValueError: a store of another codec, one without what the task needs, a split without rows, or a class that is
            not learnt.
    """
    given = {split: getattr(recipe, split) for split in ("validation", "test")}
    apart = {split: Path(other) for split, other in given.items() if isinstance(other, str)}
    chosen = {column for value in given.values() if isinstance(value, dict) for column in value}
    rows = _read(task, store, recipe, audio_tokenizer, codec, chosen)
    places = _divide(rows, task, {split: value for split, value in given.items() if split not in apart}, recipe.seed)
    splits = {split: rows.select(np.flatnonzero(places == split)) for split in SPLITS}
    splits |= {split: _read(task, other, recipe, audio_tokenizer, codec) for split, other in apart.items()}
    empty = [split for split in SPLITS if not len(splits[split])]
    if empty:
        raise ValueError(f"{store} gives no rows for {empty}: it needs more utterances, or the recipe other splits")
    if task != "asr":
        _check_classes(task, splits)
    return {split: rows.select_columns(["id", "input", "truth", "num_samples"]) for split, rows in splits.items()}


def _read(
    task: str,
    store: Path,
    recipe: ProbeConfig,
    audio_tokenizer: AudioTokenizer,
    codec: str,
    chosen: Collection[str] = (),
) -> Dataset:
    """The rows of a store that the task can use, under our names."""
    tokens, truth = TokenStore(store), TRUTH[task]
    check_codec(tokens, audio_tokenizer, codec)
    missing = sorted({recipe.input, truth, *chosen} - set(tokens.columns))
    if missing:
        raise ValueError(
            f"the probe {task} needs the columns {missing}, but {store} has only {sorted(tokens.columns)}: features "
            "are made by focallm tokenize --features, other columns come from the corpus"
        )
    wanted = {"id", recipe.input, truth, "num_samples", tokens.utterance_column, *chosen}
    rows = tokens.dataset([column for column in tokens.columns if column in wanted])
    if "utterance" not in rows.column_names:  # of a mixed store several rows may come from one
        rows = rows.add_column("utterance", list(rows["id"]))
    rows = rows.add_column("truth", [None if value in (None, "") else str(value) for value in rows[truth]])
    without = [name for name, value in zip(rows["id"], rows["truth"], strict=True) if value is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(rows)} rows of {store} have no {truth}, first {without[0]}: they can be neither "
            "learnt from nor judged; leave them out of the corpus"
        )
    return rows.rename_column(recipe.input, "input")


def _divide(rows: Dataset, task: str, given: dict[str, Any], seed: int) -> np.ndarray:
    """-> the split of every row, (rows,)"""
    places = np.full(len(rows), "train", dtype="<U10")
    for split, values in given.items():
        if isinstance(values, dict):
            fits = [[str(value) == str(wanted) for value in rows[column]] for column, wanted in values.items()]
            places[np.all(fits, axis=0)] = split
    shares = {split: share for split, share in given.items() if isinstance(share, float)}
    names, groups = np.array(rows["utterance"]), np.array(["" if task == "asr" else t for t in rows["truth"]])
    draw, free = np.random.default_rng(seed), places == "train"
    for group in np.unique(groups[free]):
        order = draw.permutation(np.unique(names[free & (groups == group)]))
        least = int(len(order) > len(shares))  # where there is enough for every split, none goes without
        counts = [max(least, round(share * len(order))) for share in shares.values()]
        for split, part in zip(shares, np.split(order, np.cumsum(counts, dtype=int)), strict=False):
            places[free & (groups == group) & np.isin(names, part)] = split
    return places


def _check_classes(task: str, splits: dict[str, Dataset]) -> None:
    known = set(splits["train"]["truth"])
    for split in ("validation", "test"):
        unknown = sorted(set(splits[split]["truth"]) - known)
        if unknown:
            raise ValueError(
                f"the split {split} has {len(unknown)} {task}s that are not learnt, such as {unknown[:3]}: they can "
                "only be told if the store to learn from has them"
            )
