"""What was measured about a model, from the record that `focallm release` writes beside its weights."""

from pathlib import Path

from ...lm.loading import find_folder
from ..definitions import TASKS

MEASURED = "measured.md"  # in the folder of a released language model: a table for each evaluation
# Task -> rows of its table: the input, and the output of the model.
_ROWS = {"se": ("noisy", "enhanced"), "ss": ("mixture", "separated")}


def harm(model: str | Path, task: str) -> str:
    """Return a sentence about the word error rate of a task if it is higher than that of the input, otherwise "".

    Args:
        model: A name in the package, a folder or a hub id.
        task: "se" or "ss".
    """
    name = TASKS[task].packaged_model if str(model) == "mini" else model
    input_row, output_row = _ROWS[task]
    rates = word_error_rates(find_folder(name))
    if input_row not in rates or output_row not in rates or rates[output_row] <= rates[input_row]:
        return ""
    return (
        f"measured: with this model the word error rate rises from {rates[input_row]:g} % ({input_row}) to "
        f"{rates[output_row]:g} % ({output_row}), so its output is harder to understand than its input"
    )


def word_error_rates(folder: Path) -> dict[str, float]:
    """Return the word error rate in % of each row in the tables of a model's record; nothing without a record."""
    record = folder / MEASURED
    rates: dict[str, float] = {}
    if not record.is_file():
        return rates
    column = 0
    for line in record.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 2:
            continue
        for i, cell in enumerate(cells):
            if cell.startswith("word error rate"):
                column = i
        # A cell is a rate with its interval, such as 22.3 (16.7 to 28.2), or - without a recognizer.
        number = cells[column].partition(" ")[0]
        if column and number.replace(".", "", 1).isdigit():
            rates[cells[0]] = float(number)
    return rates
