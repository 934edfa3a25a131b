"""The data of one task of a recipe: rows of a token store to train and to evaluate on.

Rows are `datasets.Dataset`s, or sequences that give `rows[i]` and `rows["column"]` as those do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ...data.forced_alignment import read_alignment, read_lexicon
from ...data.token_store import ReferenceDataset, TokenStore, describe_codec
from ...data.utterance import read_lines
from ...lm.templates import Template
from ...lm.training.recipe import ExtraTask, LMRecipe
from ...tokenizer import AudioTokenizer
from ..definitions import TaskDefinition, find_task

# Drops rows that a task cannot use. Takes rows, and the training rows as they are before this filter.
Filter = Callable[[Any, Any], Any]

# Words of a lexicon in one row: with a single one, rows would be far shorter than those of speech.
_MAX_WORDS = 15
# Columns that samples and the description of a model need, whatever the task.
_COMMON_COLUMNS = {"id", "num_samples", "text", "speaker"}
# Columns that are not in a store, but made from another one of the reference recording.
_REFERENCE_COLUMNS = {"reference_codes": "codes", "reference_text": "text"}


@dataclass(frozen=True)
class TaskData:
    """The rows of one task.

    Args:
        definition: The task.
        train_dataset: Rows to train on.
        eval_dataset: Rows to evaluate on.
        repeat: How often each row is used in an epoch.
        left_out: Numbers of rows that the task cannot use, by reason.
        store: The token store, or the text file.
    """

    definition: TaskDefinition
    train_dataset: Any
    eval_dataset: Any
    repeat: int
    left_out: dict[str, int]
    store: Path

    @property
    def template(self) -> Template:
        """The template of the task."""
        return self.definition.template


def read_task_data(
    task: ExtraTask, default_store: Path, recipe: LMRecipe, audio_tokenizer: AudioTokenizer, codec: str
) -> TaskData:
    """Read the rows of a task.

    Args:
        task: The task.
        default_store: The store of a task that names none.
        recipe: The recipe, which may define tasks and says how to split the rows.
        audio_tokenizer: The codec.
        codec: Its name, for error messages.

    Raises:
        ValueError: The task is unknown, or the store is of another codec or lacks what the task needs.
    """
    definition = find_task(task.task, recipe.templates)
    store = Path(task.store or default_store)
    # Whether a store of text is a file or a token store decides where the text comes from.
    if definition.data_source == "text file" and store.is_file():
        return _read_text_file(definition, store, task.repeat, recipe.validation_fraction)
    if definition.data_source == "lexicon":
        return _read_lexicon(definition, store, task.repeat, recipe)
    return _read_token_store(definition, TokenStore(store), task.repeat, recipe, audio_tokenizer, codec)


def _read_token_store(
    definition: TaskDefinition,
    tokens: TokenStore,
    repeat: int,
    recipe: LMRecipe,
    audio_tokenizer: AudioTokenizer,
    codec: str,
) -> TaskData:
    """Split a token store and drop the rows that the task cannot use."""
    check_codec(tokens, audio_tokenizer, codec)
    needed = {_REFERENCE_COLUMNS.get(field, field) for field in definition.template.fields}
    _check_columns(needed, definition, tokens)
    loaded = needed | _COMMON_COLUMNS | {tokens.utterance_column}
    columns = sorted(loaded & set(tokens.columns), key=tokens.columns.index)
    train_dataset, eval_dataset = tokens.split(recipe.validation_fraction, recipe.seed, columns)
    if "speaker" in needed:
        train_dataset = _name_speakers(train_dataset)
        eval_dataset = _name_speakers(eval_dataset)

    left_out = {}
    for reason, keep in _filters(definition, tokens, recipe, audio_tokenizer):
        num_rows = len(train_dataset) + len(eval_dataset)
        # The training rows are filtered last, because the filter of the others takes them as they were.
        eval_dataset = keep(eval_dataset, train_dataset)
        train_dataset = keep(train_dataset, train_dataset)
        left_out[reason] = num_rows - len(train_dataset) - len(eval_dataset)
    return TaskData(definition, _as_numpy(train_dataset), _as_numpy(eval_dataset), repeat, left_out, tokens.folder)


def _filters(
    definition: TaskDefinition, tokens: TokenStore, recipe: LMRecipe, audio_tokenizer: AudioTokenizer
) -> list[tuple[str, Filter]]:
    """Return the filters of a task in the order in which they are applied, each with the reason why it drops rows."""
    filters: list[tuple[str, Filter]] = []
    template = definition.template
    for field in definition.text_fields:
        # Rows without a speaker got a name before.
        if field != "speaker":
            filters.append((f"have no {field}", partial(_drop_empty, field)))
    if template.fields == ("text",):
        filters.append(("repeat a text of the training rows", _drop_known_texts))
    if template.target.kind == "aligned":
        filters.append(("have no alignment", partial(_add_alignment, read_alignment(tokens.folder))))
    if "reference_codes" in template.fields:
        max_codes = int(definition.max_reference_s * audio_tokenizer.frame_rate) * audio_tokenizer.num_codebooks
        add_references = partial(
            _add_references, max_codes, definition.uses_reference_text, recipe.seed, tokens.utterance_column
        )
        filters.append(("name no speaker, or have no other utterance of their speaker for a reference", add_references))
    return filters


def _drop_empty(field: str, rows: Dataset, train_rows: Dataset) -> Dataset:
    """Keep the rows that have a text."""
    return rows.select([i for i, text in enumerate(rows[field]) if text not in (None, "")])


def _drop_known_texts(rows: Dataset, train_rows: Dataset) -> Dataset:
    """Keep the rows to evaluate on whose text is not trained on: several speakers may read the same sentence."""
    if rows is train_rows:
        return rows
    known = set(map(_text_key, train_rows["text"]))
    return rows.select([i for i, text in enumerate(rows["text"]) if _text_key(text) not in known])


def _add_alignment(alignment: dict[str, dict[str, Any]], rows: Dataset, train_rows: Dataset) -> Dataset:
    """Keep the rows that could be aligned, with the columns `units` and `frames`."""
    kept = []
    units = []
    frames = []
    for i, row_id in enumerate(rows["id"]):
        if row_id in alignment:
            kept.append(i)
            units.append(alignment[row_id]["units"])
            frames.append(alignment[row_id]["frames"])
    return rows.select(kept).add_column("units", units).add_column("frames", frames)


def _add_references(
    max_codes: int, whole: bool, seed: int, utterance_column: str, rows: Dataset, train_rows: Dataset
) -> ReferenceDataset:
    """Keep the rows for which there is a reference recording of their speaker among the training rows."""
    return ReferenceDataset(_as_numpy(rows), _as_numpy(train_rows), max_codes, whole, seed, utterance_column)


def _name_speakers(rows: Dataset) -> Dataset:
    """Name the speaker of rows without one "speaker", for corpora of a single voice."""
    speakers = rows["speaker"]
    if None not in speakers:
        return rows
    return rows.remove_columns("speaker").add_column("speaker", [speaker or "speaker" for speaker in speakers])


def _as_numpy(rows: Any) -> Any:
    return rows.with_format("numpy") if isinstance(rows, Dataset) else rows


def check_codec(tokens: TokenStore, audio_tokenizer: AudioTokenizer, name: str) -> None:
    """Check that a codec made a token store.

    Raises:
        ValueError: Another codec made it.
    """
    made_by = tokens.manifest["codec"]
    codec = describe_codec(audio_tokenizer)
    differing = []
    for key, value in codec.items():
        if key != "name" and made_by[key] != value:
            differing.append(key)
    if differing:
        raise ValueError(
            f"{tokens.folder} was made by the codec {made_by['name']}, which differs from {name} in {differing}: pass "
            "the --codec that you gave to focallm tokenize, or tokenize again"
        )


def _check_columns(needed: set[str], definition: TaskDefinition, tokens: TokenStore) -> None:
    """Raise a ValueError that says how to make a store with the columns of a task."""
    missing = sorted(needed - set(tokens.columns))
    if missing:
        raise ValueError(
            f"the task {definition.template.name} needs {missing}, but {tokens.folder} has only "
            f"{sorted(tokens.columns)}: make such a store with\n"
            f"  focallm tokenize CORPUS STORE {definition.tokenize_options}"
        )


def _read_lexicon(definition: TaskDefinition, store: Path, repeat: int, recipe: LMRecipe) -> TaskData:
    """Make rows of a random number of words each, with their phonemes, from the lexicon of an aligned token store."""
    lexicon = read_lexicon(store)
    rng = np.random.default_rng(recipe.seed)
    words = np.array(list(lexicon))[rng.permutation(len(lexicon))]
    ends = rng.integers(1, _MAX_WORDS + 1, size=len(words)).cumsum()
    texts = []
    phonemes = []
    for group in np.split(words, ends[ends < len(words)]):
        row_words = group.tolist()
        texts.append(" ".join(row_words))
        phonemes.append(" ".join(lexicon[word] for word in row_words))
    rows = Dataset.from_dict({"text": texts, "phonemes": phonemes})
    splits = rows.train_test_split(test_size=recipe.validation_fraction, seed=recipe.seed)
    return TaskData(definition, splits["train"], splits["test"], repeat, {}, store)


def _read_text_file(definition: TaskDefinition, path: Path, repeat: int, validation_fraction: float) -> TaskData:
    """Read a text per line, without repetitions. The last lines are the evaluation rows."""
    num_lines = 0
    line_of: dict[str, str] = {}
    for line in read_lines(path):
        if line.strip():
            num_lines += 1
            # Lines that differ only in case or spaces count as the same, too.
            line_of.setdefault(_text_key(line), line.strip())
    lines = list(line_of.values())
    if len(lines) < 2:
        raise ValueError(
            f"{path} has {len(lines)} different lines of text, but training needs one and evaluation another one"
        )
    rows = Dataset.from_dict({"text": lines})
    num_train = min(len(lines) - 1, round(len(lines) * (1 - validation_fraction)))
    train_dataset = rows.select(range(num_train))
    eval_dataset = rows.select(range(num_train, len(lines)))
    return TaskData(
        definition, train_dataset, eval_dataset, repeat, {"repeat another one": num_lines - len(lines)}, path
    )


def _text_key(text: str) -> str:
    """Return what texts that count as the same have in common."""
    return " ".join(text.split()).casefold()
