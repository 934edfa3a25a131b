"""A reference for every utterance: another one of the same speaker, for tasks that imitate a voice."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from datasets import Dataset


class WithReferences(Sequence[dict[str, Any]]):
    """Rows of a token store, each with `reference_codes` and `reference_text` of another utterance of its speaker.

    Which one follows from the row's id and the seed. A row whose speaker has nothing else to offer is left out.

    Args:
        rows: with `id`, `codes`, `speaker` and the column `key`; a row without a speaker finds no reference.
        pool: where references come from; may be `rows`.
        most: the most codes of a reference, a whole number of frames.
        whole: take only utterances of at most `most` codes (so that codes and text agree) instead of cutting them.
        seed: of the choice.
        key: column that says what was spoken, see `TokenStore.utterance_column`.
    """

    def __init__(self, rows: Dataset, pool: Dataset, most: int, whole: bool, seed: int, key: str = "id") -> None:
        self.rows, self.pool, self.most = rows, pool, most
        offers: dict[str, list[int]] = defaultdict(list)
        columns = pool.with_format(None)
        for place, (speaker, codes) in enumerate(zip(columns["speaker"], columns["codes"], strict=True)):
            if speaker is not None and (len(codes) <= most or not whole):
                offers[speaker].append(place)
        offered, names = list(pool[key]), list(rows["id"])
        found = (
            (row, _choose(offers[speaker], offered, own, f"{seed}:{names[row]}"))
            for row, (own, speaker) in enumerate(zip(rows[key], rows.with_format(None)["speaker"], strict=True))
        )
        self.places = [(row, place) for row, place in found if place is not None]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """-> a row, as the store has it, with its reference; or a column of the store"""
        if isinstance(index, str):
            column = self.rows.with_format(None)[index]
            return [column[row] for row, _ in self.places]
        row, place = self.places[index]
        reference = self.pool[place]
        codes = reference["codes"][: self.most]
        return {**self.rows[row], "reference_codes": codes, "reference_text": reference.get("text")}


def _choose(offers: Sequence[int], offered: Sequence[str], own: str, key: str) -> int | None:
    """One of the offered places with another utterance than one's own, as the key has it."""
    if not offers:
        return None
    first = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(offers)
    turned = [*offers[first:], *offers[:first]]
    return next((place for place in turned if offered[place] != own), None)
