"""The figures of the paper's tables (arXiv 2502.04465), from the files of the folder `published`.

A file is a table by its number in the first version of the paper (v1). Its first lines, with #, are remarks; then there
is a line for each row: its name, its cells as they are printed, none if the paper has none, and the source. Where the
second version (v2, of NeurIPS 2025) adds or corrects, the source says so, with the number that the table has there.

Read from copies in Markdown: v1 from https://github.com/TikaToka/ai-paper-reviewer (content/paper-reviews/2502.04465),
v2 from a conversion of its PDF. Where both versions print a figure the copies agree, but for those in the remarks.
"""

import csv
from pathlib import Path

from .columns import COLUMNS
from .rendering import Cell, Row

FOLDER = Path(__file__).parent / "published"


def published(number: int) -> list[Row]:
    """-> the rows of a table of the paper; their cells by the keys of `COLUMNS`, without those that are empty

    Args:
        number: 1 codecs, 2 clean speech resynthesised, 3 noisy speech resynthesised, 4 voice conversion, 5 downstream
            tasks, 6 ablations, 7 training data, 8 TS3-Codec, 9 streaming in chunks, 10 discrete and continuous input.

    Raises:
        ValueError: there is no such table.
    """
    path = FOLDER / f"table_{number:02d}.csv"
    if not path.is_file():
        raise ValueError(f"the paper has tables 1 to 10, found {number}")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [Row(line.pop("row"), _cells(line), line["source"]) for line in lines]


def _cells(line: dict[str, str]) -> dict[str, Cell]:
    known = {key: text for key, text in line.items() if text and key != "source"}
    return {key: text if COLUMNS[key].digits is None else float(text) for key, text in known.items()}
