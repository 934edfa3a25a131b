"""The published rows of the paper's tables (arXiv 2502.04465), read from the files in `published/`.

There is one CSV file per table, numbered as in the first version of the paper (v1). The first lines, with #, are
remarks. Every other line is a row: its name, its cells as they are printed (empty if the paper has none), and its
source. Where the second version (v2, NeurIPS 2025) adds or corrects figures, the source says so, with the table's
number in v2.

The figures were read from Markdown copies: v1 from https://github.com/TikaToka/ai-paper-reviewer
(content/paper-reviews/2502.04465), v2 from a conversion of its PDF. Figures that both versions print are equal in both
copies, except for those that the remarks mention.
"""

import csv
from pathlib import Path

from .rendering import COLUMNS, Cell, Row

FOLDER = Path(__file__).parent / "published"


def published_rows(number: int) -> list[Row]:
    """Return the published rows of a table; empty cells are left out.

    Args:
        number: 1 codecs, 2 clean speech resynthesis, 3 noisy speech resynthesis, 4 voice conversion, 5 downstream
            tasks, 6 ablations, 7 training data, 8 TS3-Codec, 9 streaming in chunks, 10 discrete and continuous input.

    Raises:
        ValueError: There is no such table.
    """
    path = FOLDER / f"table_{number:02d}.csv"
    if not path.is_file():
        raise ValueError(f"the paper has tables 1 to 10, found {number}")
    text = path.read_text(encoding="utf-8")
    # The remarks stand before the rows.
    while text.startswith("#"):
        _, _, text = text.partition("\n")
    rows = []
    for fields in csv.DictReader(text.split("\n")):
        name = fields.pop("row")
        source = fields.pop("source")
        cells: dict[str, Cell] = {}
        for key, value in fields.items():
            if value:
                cells[key] = value if COLUMNS[key].digits is None else float(value)
        rows.append(Row(name, cells, source))
    return rows
