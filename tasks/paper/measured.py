"""From what was measured of items to the cells of a row. T samples."""

from collections.abc import Sequence

import numpy as np

from ..evaluation.metrics import code_figures
from ..evaluation.results import ItemResult, bootstrap, mean_interval
from .rendering import Cell, Interval, Row

# Key of a line -> key of the column, and a factor: means over the items that have it.
MEANS = {
    "bit_rate": ("bit_rate", 1e-3),
    "utmos": ("utmos", 1.0),
    "p808": ("dnsmos", 1.0),
    "similarity": ("similarity", 100.0),
    "mel": ("mel", 1.0),
    "rtf": ("rtf", 1.0),
}
_PLAIN = ("bit_rate", "rtf")  # without an interval: properties of the codec and of the machine


def measured(name: str, lines: Sequence[ItemResult], seed: int, **others: Cell) -> Row:
    """The row of a system.

    Args:
        name: what stands in the first column.
        lines: one for each item.
        seed: of the intervals.
        others: further cells.
    """
    cells: dict[str, Cell] = dict(others)
    for key, (column, factor) in MEANS.items():
        values = [line[key] for line in lines if key in line]
        if values:
            mean, ends = float(np.mean(values)), mean_interval(values, seed)
            cells[column] = factor * mean if key in _PLAIN else Interval(*(factor * x for x in (mean, *ends)))
    for key, column in (("errors", "wer"), ("dwer_errors", "dwer")):
        if lines and all(key in line for line in lines):
            cells[column] = _rate([line[key] for line in lines], [line[f"{key[:-6]}words"] for line in lines], seed)
    if "wer" in cells:
        cells["failed"] = 100 * float(np.mean([line["errors"] > 0.5 * line["words"] for line in lines]))
    return Row(name, cells | _use(lines))


def _rate(errors: Sequence[int], words: Sequence[int], seed: int) -> Interval:
    """In %, with its interval."""
    low, high = bootstrap(errors, words, seed)
    return Interval(100 * sum(errors) / sum(words), 100 * low, 100 * high)


def _use(lines: Sequence[ItemResult]) -> dict[str, Cell]:
    """Code usage and normalised entropy in %, the means over the codebooks."""
    if not lines or "codes" not in lines[0]:
        return {}
    figures = code_figures(lines)
    return {key: 100 * figures[key] for key in ("code_usage", "normalised_entropy")}
