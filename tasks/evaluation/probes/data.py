"""Data of a probe: the rows of each split, and the targets that the labels become.

B batch, N frames, C classes, S characters of a text.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from ....data.phonemes import PAUSES, spell_out
from ....data.token_store import TokenStore
from ....tokenizer.audio_tokenizer import AudioTokenizer
from ...training.task_data import check_codec
from ..metrics.words import word_counter
from .probe_config import ProbeConfig, SplitRule

# Task -> the column of the token store that holds its labels.
LABEL_COLUMNS = {"asr": "text", "speaker": "speaker", "emotion": "emotion"}
SPLITS = ("train", "validation", "test")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz' "


class CharacterTarget:
    """The characters of a text, predicted at every frame and trained with CTC (Graves et al., 2006).

    Class 0 is the blank of CTC. Errors are word errors, counted after Whisper's text normalizer.

    Raises:
        ImportError: rapidfuzz or whisper-normalizer is not installed.
    """

    is_pooled = False  # one prediction per frame
    num_classes = 1 + len(CHARACTERS)

    def __init__(self) -> None:
        self._count_errors = word_counter()

    def encode(self, text: str) -> Tensor:
        """Return the classes of a text, (S,) int64. Numbers are spelled out; other characters are dropped."""
        words = [part for part in spell_out(text) if part not in PAUSES]
        classes = []
        for character in " ".join(words):
            index = CHARACTERS.find(character)
            if index >= 0:
                classes.append(1 + index)
        return torch.tensor(classes, dtype=torch.long)

    def loss(self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Return the CTC loss in nats per character, (B,); 0 for texts with more characters than frames.

        Args:
            logits: (B, N, C).
            lengths: frames of each item, (B,).
            targets: the classes of each text, (S,).
        """
        log_probabilities = logits.log_softmax(-1).transpose(0, 1)
        classes = torch.cat([*targets]).to(logits.device)
        sizes = torch.tensor(list(map(len, targets)), device=logits.device)
        loss = F.ctc_loss(log_probabilities, classes, lengths, sizes, reduction="none", zero_infinity=True)
        return loss / sizes

    def predict(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the text of the most likely path of each item, from logits (B, N, C) and lengths (B,)."""
        texts = []
        for path, length in zip(logits.argmax(-1).cpu(), lengths.tolist(), strict=True):
            text = ""
            # CTC: equal neighbors are one character, then blanks are dropped.
            for index in torch.unique_consecutive(path[:length]).tolist():
                if index > 0:
                    text += CHARACTERS[index - 1]
            texts.append(text)
        return texts

    def count_errors(self, label: str, prediction: str) -> tuple[int, int]:
        """Return the number of word errors and of words in the label."""
        return self._count_errors(label, prediction)


class ClassTarget:
    """One of several classes, predicted once for the whole item.

    Args:
        names: names of the classes.
    """

    is_pooled = True

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.num_classes = len(names)

    def encode(self, name: str) -> Tensor:
        """Return the class of a name, a scalar of int64."""
        return torch.tensor(self.names.index(name))

    def loss(self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Return the cross-entropy of logits (B, C) in nats, (B,)."""
        return F.cross_entropy(logits, torch.stack([*targets]).to(logits.device), reduction="none")

    def predict(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return the most likely class of each item, from logits (B, C)."""
        return [self.names[i] for i in logits.argmax(-1).tolist()]

    def count_errors(self, label: str, prediction: str) -> tuple[int, int]:
        """Return 1 if the prediction is wrong, otherwise 0, and the number of labels, 1."""
        return int(label != prediction), 1


Target = CharacterTarget | ClassTarget


def read_splits(
    task: str, store: Path, config: ProbeConfig, audio_tokenizer: AudioTokenizer, codec: str
) -> dict[str, Dataset]:
    """Return the rows of each of `SPLITS`, with the columns id, input, label and num_samples.

    A split that is a share gets this share of the utterances of each class, or of all utterances if labels are texts;
    which ones depends on the seed. All rows that a mixed store has of an utterance are in the same split.

    Args:
        task: a key of `LABEL_COLUMNS`.
        store: token store with the training rows.
        config: configuration of the probe.
        audio_tokenizer: the codec that made the store.
        codec: its name for error messages.

    Raises:
        ValueError: The store was made with another codec, lacks a column or a label, a split is empty, or a class
            does not occur in the training split.
    """
    other_stores = {}
    rules: dict[str, SplitRule] = {}
    rule_columns: set[str] = set()
    for split in ("validation", "test"):
        rule: SplitRule = getattr(config, split)
        if isinstance(rule, str):
            other_stores[split] = Path(rule)
            continue
        rules[split] = rule
        if isinstance(rule, dict):
            rule_columns.update(rule)

    rows = _read_store(task, store, config, audio_tokenizer, codec, rule_columns)
    assigned = _assign_splits(rows, task, rules, config.seed)
    splits = {}
    for split in SPLITS:
        if split in other_stores:
            split_rows = _read_store(task, other_stores[split], config, audio_tokenizer, codec)
        else:
            split_rows = rows.select(np.flatnonzero(assigned == split))
        splits[split] = split_rows.select_columns(["id", "input", "label", "num_samples"])

    empty = [split for split, rows in splits.items() if len(rows) == 0]
    if empty:
        raise ValueError(
            f"{store} gives no rows for {empty}. Use a larger corpus, or other values for `validation` and `test` in "
            "the recipe."
        )
    if task != "asr":
        _check_classes(task, splits)
    return splits


def _read_store(
    task: str,
    store: Path,
    config: ProbeConfig,
    audio_tokenizer: AudioTokenizer,
    codec: str,
    rule_columns: Collection[str] = (),
) -> Dataset:
    """Return all rows of a token store, with the columns input, label and utterance added."""
    tokens = TokenStore(store)
    check_codec(tokens, audio_tokenizer, codec)
    label_column = LABEL_COLUMNS[task]
    missing = sorted({config.input, label_column, *rule_columns} - set(tokens.columns))
    if missing:
        raise ValueError(
            f"The probe {task} needs the columns {missing}, but {store} has only {sorted(tokens.columns)}. Make "
            "features with `focallm tokenize --features`; other columns come from the corpus."
        )
    wanted = {"id", config.input, label_column, "num_samples", tokens.utterance_column, *rule_columns}
    rows = tokens.dataset([column for column in tokens.columns if column in wanted])
    if "utterance" not in rows.column_names:
        # Only mixed stores have this column: several of their rows may come from one utterance.
        rows = rows.add_column("utterance", list(rows["id"]))

    labels = []
    unlabeled = []
    for row_id, value in zip(rows["id"], rows[label_column], strict=True):
        if value is None or value == "":
            unlabeled.append(row_id)
        labels.append(str(value))
    if unlabeled:
        raise ValueError(
            f"{len(unlabeled)} of {len(rows)} rows of {store} have no {label_column}; the first is {unlabeled[0]}. "
            "Leave them out of the corpus."
        )
    return rows.add_column("label", labels).rename_column(config.input, "input")


def _assign_splits(rows: Dataset, task: str, rules: Mapping[str, SplitRule], seed: int) -> np.ndarray:
    """Return the name of the split of every row, (rows,)."""
    assigned = np.full(len(rows), "train", dtype="<U10")
    for split, rule in rules.items():
        if isinstance(rule, dict):
            matches = np.full(len(rows), True)
            for column, wanted in rule.items():
                # Values are compared as text, so that `session: 5` in a recipe matches a column of strings, too.
                matches &= np.array(list(map(str, rows[column])), dtype=object) == str(wanted)
            assigned[matches] = split

    shares = {split: rule for split, rule in rules.items() if isinstance(rule, float)}
    utterances = np.array(rows["utterance"])
    # Texts are no classes: their shares are of all utterances.
    classes = np.full(len(rows), "") if task == "asr" else np.array(rows["label"])
    is_free = assigned == "train"
    generator = np.random.default_rng(seed)
    for name in np.unique(classes[is_free]):
        in_class = is_free & (classes == name)
        shuffled = generator.permutation(np.unique(utterances[in_class]))
        # Every split gets an utterance of each class that has enough of them.
        minimum = int(len(shuffled) > len(shares))
        start = 0
        for split, share in shares.items():
            stop = start + max(minimum, round(share * len(shuffled)))
            assigned[in_class & np.isin(utterances, shuffled[start:stop])] = split
            start = stop
    return assigned


def _check_classes(task: str, splits: Mapping[str, Dataset]) -> None:
    known = set(splits["train"]["label"])
    for split in ("validation", "test"):
        unknown = sorted(set(splits[split]["label"]) - known)
        if unknown:
            raise ValueError(
                f"{len(unknown)} classes of the {split} split do not occur in the training split, such as "
                f"{unknown[:3]}. A probe can only predict a {task} that it was trained on."
            )
