"""Measured rows: the results of items become the cells of a row."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from ...data.mixing.mixer import Mixer, Premixed
from ...data.utterance import Utterance
from ..evaluation.metrics.codec import code_figures
from ..evaluation.metrics.metric import UNDEFINED
from ..evaluation.results import ItemResult, bootstrap, mean_interval
from .rendering import Cell, Interval, Row

REFERENCE = "Reference"  # name of the recordings themselves in the paper's tables

# Key of a result -> column and unit of its mean over the items.
_MEANS = {
    "bit_rate": ("bit_rate", 1e-3),
    "utmos": ("utmos", 1.0),
    "p808": ("dnsmos", 1.0),
    "similarity": ("similarity", 100.0),
    "mel": ("mel", 1.0),
    "rtf": ("rtf", 1.0),
}
# Properties of the codec and of the machine have no confidence interval.
_WITHOUT_INTERVAL = ("bit_rate", "rtf")


def item_ids(test_set: str, items: Sequence[Utterance], mixer: Mixer | Premixed | None = None) -> list[str]:
    """Return the ids of items in a record, which say where they come from and how they are mixed."""
    prefix = f"{test_set}/"
    if mixer is not None:
        settings = json.dumps(mixer.describe(), sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()
        prefix += f"{mixer.input_name} {digest[:8]}/"
    return [prefix + item.id for item in items]


def measured_row(name: str, results: Sequence[ItemResult], seed: int, **cells: Cell) -> Row:
    """Return the row of a system.

    Args:
        name: text of the first column.
        results: one for each item.
        seed: for the confidence intervals.
        cells: further cells of the row.
    """
    for key, (column, unit) in _MEANS.items():
        values = [result[key] for result in results if key in result]
        if not values:
            continue
        mean = float(np.mean(values))
        if key in _WITHOUT_INTERVAL:
            cells[column] = unit * mean
        else:
            low, high = mean_interval(values, seed)
            cells[column] = Interval(unit * mean, unit * low, unit * high)

    wer = _error_rate(results, "errors", "words", seed)
    if wer is not None:
        is_failed = []
        for result in results:
            # A reference without words has no rate.
            if result.get("words"):
                is_failed.append(result["errors"] > 0.5 * result["words"])
        cells["wer"] = wer
        cells["failed"] = 100 * float(np.mean(is_failed))
    dwer = _error_rate(results, "dwer_errors", "dwer_words", seed)
    if dwer is not None:
        cells["dwer"] = dwer

    # Scores that a silent or short recording has not, and that are left out of the means above.
    num_undefined = sum(len(result.get(UNDEFINED, ())) for result in results)
    if num_undefined > 0:
        cells["undefined"] = num_undefined

    with_codes = [result for result in results if result.get("codes")]
    if with_codes:
        figures = code_figures(with_codes)
        cells["code_usage"] = 100 * figures["code_usage"]
        cells["normalised_entropy"] = 100 * figures["normalised_entropy"]
    return Row(name, cells)


def _error_rate(results: Sequence[ItemResult], errors_key: str, words_key: str, seed: int) -> Interval | None:
    """Return errors per word in % over the items whose words were counted; None if there are no words."""
    errors = []
    words = []
    for result in results:
        if errors_key in result:
            errors.append(result[errors_key])
            words.append(result[words_key])
    if sum(words) == 0:
        return None
    low, high = bootstrap(errors, words, seed)
    return Interval(100 * sum(errors) / sum(words), 100 * low, 100 * high)
