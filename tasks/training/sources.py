"""From token stores to what a recipe learns from: the rows of every task, and what was left out of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ...data.forced_alignment import read_alignment, read_lexicon
from ...data.token_store import ReferenceDataset, TokenStore, describe_codec
from ...lm.templates import Template
from ...lm.training import ExtraTask, LMRecipe
from ...tokenizer import AudioTokenizer
from ..definitions import TEMPLATES

Rows = Any  # a datasets.Dataset, or what gives rows[place] and rows["column"] as that does

CONVERSION_REFERENCE_S = 3.0  # of a recording whose voice is to be imitated, cut
ZERO_SHOT_REFERENCE_S = 6.0  # the longest recording that is read along with its text, whole
_WORDS = 15  # in a row of a lexicon: one would be far shorter than speech, and have an update for itself

# What gives a store the columns that are not there by themselves.
_OPTIONS = {
    "noisy_codes": "--mix configs/mix/enhancement.yaml",
    "noisy_features": "--mix configs/mix/enhancement.yaml --features",
    "mixture_codes": "--mix configs/mix/separation_2.yaml",
    "mixture_features": "--mix configs/mix/separation_2.yaml --features",
    "sources": "--mix configs/mix/separation_2.yaml",
    "source_codes": "--mix configs/mix/conversion.yaml",
    "features": "--features",
}
_ALWAYS = {"id", "num_samples", "text", "speaker"}  # what samples and descriptions say of a row
_REFERENCE = {"reference_codes": "codes", "reference_text": "text"}  # made from these columns


@dataclass(frozen=True)
class Part:
    """Rows of one task on both splits of the split.

    Args:
        template: of the task.
        train_dataset, eval_dataset: rows.
        repeat: times per epoch.
        left_out: rows that cannot be used, by reason.
        store: where the rows are from.
    """

    template: Template
    train_dataset: Rows
    eval_dataset: Rows
    repeat: int
    left_out: dict[str, int]
    store: Path


def read_part(part: ExtraTask, recipe: LMRecipe, audio_tokenizer: AudioTokenizer, codec: str) -> Part:
    """Open a store for a task.

    Raises:
        ValueError: an unknown task, a store of another codec, or one without what the task needs.
    """
    templates = {**TEMPLATES, **{template.name: template for template in recipe.templates}}
    if part.task not in templates:
        raise ValueError(
            f"no task is called {part.task!r}: choose from {list(templates)}, or write one into the recipe's templates"
        )
    template, store = templates[part.task], Path(part.store)
    if part.task == "text" and store.is_file():
        return _lines(template, store, part.repeat, recipe.validation_fraction)
    if part.task == "pronounce":
        return _words(template, store, part.repeat, recipe)
    tokens = TokenStore(store)
    check_codec(tokens, audio_tokenizer, codec)
    fields = {segment.field for segment in template.segments}
    _check_columns(fields, tokens, part.task)
    needed = {_REFERENCE.get(field, field) for field in fields}
    columns = [name for name in tokens.columns if name in needed | _ALWAYS | {tokens.utterance_column}]
    train_dataset, eval_dataset = tokens.split(recipe.validation_fraction, recipe.seed, columns)
    left_out = {}
    for field in sorted({s.field for s in template.segments if s.kind == "text"} - {"speaker", "reference_text"}):
        before = len(train_dataset) + len(eval_dataset)
        train_dataset, eval_dataset = _with(field, train_dataset), _with(field, eval_dataset)
        left_out[f"have no {field}"] = before - len(train_dataset) - len(eval_dataset)
    if template.target.kind == "aligned":
        before = len(train_dataset) + len(eval_dataset)
        alignment = read_alignment(store)
        train_dataset, eval_dataset = _aligned(train_dataset, alignment), _aligned(eval_dataset, alignment)
        left_out["have no alignment"] = before - len(train_dataset) - len(eval_dataset)
    if "speaker" in fields:
        train_dataset, eval_dataset = _name_speakers(train_dataset), _name_speakers(eval_dataset)
    splits: tuple[Rows, Rows] = train_dataset.with_format("numpy"), eval_dataset.with_format("numpy")
    if "reference_codes" in fields:
        whole = "reference_text" in fields
        frames = (ZERO_SHOT_REFERENCE_S if whole else CONVERSION_REFERENCE_S) * audio_tokenizer.frame_rate
        most = int(frames) * len(audio_tokenizer.codebook_sizes)
        pool = train_dataset.with_format("numpy")
        splits = tuple(
            ReferenceDataset(side, pool, most, whole, recipe.seed, tokens.utterance_column) for side in splits
        )  # type: ignore[assignment,arg-type]
        left = len(train_dataset) + len(eval_dataset) - sum(map(len, splits))
        left_out["have no other utterance of their speaker for a reference"] = left
    return Part(template, *splits, part.repeat, left_out, store)


def check_codec(tokens: TokenStore, audio_tokenizer: AudioTokenizer, name: str) -> None:
    """Make sure that a store is of this codec.

    Raises:
        ValueError: it is of another.
    """
    made, given = tokens.manifest["codec"], describe_codec(audio_tokenizer)
    differing = [key for key in given if key != "name" and given[key] != made[key]]
    if differing:
        raise ValueError(
            f"{tokens.folder} was made by the codec {made['name']}, which differs from {name} in {differing}: give "
            "--codec as you gave it to focallm tokenize, or tokenize anew"
        )


def _check_columns(fields: set[str], tokens: TokenStore, task: str) -> None:
    needed = {_REFERENCE.get(field, field) for field in fields}
    missing = sorted(needed - set(tokens.columns))
    if missing:
        options = max((_OPTIONS.get(field, "") for field in missing), key=len)
        raise ValueError(
            f"the task {task} needs {missing}, but {tokens.folder} has only {sorted(tokens.columns)}: make such a "
            f"store with\n  focallm tokenize CORPUS STORE {options}"
        )


def _with(field: str, rows: Dataset) -> Dataset:
    """Those rows that have it."""
    return rows.select([i for i, value in enumerate(rows[field]) if value not in (None, "")])


def _name_speakers(rows: Dataset) -> Dataset:
    """A corpus that names no speakers has one, called "speaker"."""
    if None not in rows["speaker"]:
        return rows
    return rows.remove_columns("speaker").add_column("speaker", [name or "speaker" for name in rows["speaker"]])


def _aligned(rows: Dataset, alignment: dict[str, dict[str, Any]]) -> Dataset:
    """Those rows that were aligned, with their units and frames."""
    rows = rows.select([i for i, name in enumerate(rows["id"]) if name in alignment])
    own = [alignment[name] for name in rows["id"]]
    return rows.add_column("units", [row["units"] for row in own]).add_column("frames", [row["frames"] for row in own])


def _words(template: Template, store: Path, repeat: int, recipe: LMRecipe) -> Part:
    """The lexicon of a store, one to `_WORDS` of its words in a row; which are held out follows from the seed."""
    lexicon, draw = read_lexicon(store), np.random.default_rng(recipe.seed)
    words = [list(lexicon)[i] for i in draw.permutation(len(lexicon))]
    ends = draw.integers(1, _WORDS + 1, size=len(words)).cumsum()
    groups = [group.tolist() for group in np.split(np.array(words), ends[ends < len(words)])]
    phonemes = [" ".join(lexicon[word] for word in group) for group in groups]
    rows = Dataset.from_dict({"text": [" ".join(group) for group in groups], "phonemes": phonemes})
    splits = rows.train_test_split(test_size=recipe.validation_fraction, seed=recipe.seed)
    return Part(template, splits["train"], splits["test"], repeat, {}, store)


def _lines(template: Template, file: Path, repeat: int, validation_fraction: float) -> Part:
    """A text per line; the last ones are held out."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = Dataset.from_dict({"text": lines})
    if len(rows) < 2:
        raise ValueError(f"{file} has {len(rows)} lines of text: at least one to learn from and one to validate on")
    split = min(len(rows) - 1, round(len(rows) * (1 - validation_fraction)))
    return Part(template, rows.select(range(split)), rows.select(range(split, len(rows))), repeat, {}, file)
