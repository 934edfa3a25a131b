"""The losses of a run as a table and a picture."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...tokenizer.files import write_whole

_COLUMNS = ("step", "epoch", "loss", "eval_loss")


def write_losses(history: Iterable[Mapping[str, Any]], unigram: float, folder: Path) -> None:
    """Write `losses.csv` and `losses.png`.

    Args:
        history: the Trainer's log.
        unigram: nats per target id of a model that knows only how frequent each id is: the line to leave behind.
        folder: where to.
    """
    entries = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(entries)
    write_whole(folder / "losses.csv", table.getvalue().encode())

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    axis = figure.add_subplot()
    for column, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["step"], entry[column]) for entry in entries if column in entry]
        axis.plot([step for step, _ in points], [loss for _, loss in points], ".-", label=label)
    axis.axhline(unigram, color="gray", linestyle="--", label="unigram entropy")
    axis.set(xlabel="update", ylabel="nats per target id")
    axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(folder / "losses.png", picture.getvalue())
