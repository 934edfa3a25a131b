"""Tables of published and of measured figures, written as Markdown, LaTeX, CSV or plain text."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

try:
    from tabulate import LATEX_ESCAPE_RULES, tabulate
except ImportError:
    raise ImportError("tables need tabulate: pip install 'focallm[eval]'") from None

WIDTH = 40  # characters of a cell on the terminal, before it wraps


class Interval(NamedTuple):
    """A measured value with the ends of its confidence interval."""

    value: float
    low: float
    high: float


Cell = float | Interval | str | None  # None, like a key that is absent: there is no such figure


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: of its cells in `Row.cells`, and its name in CSV.
        heading: with the unit, as "dWER, %".
        digits: behind the point, more where they would leave less than two; None for text.
    """

    key: str
    heading: str
    digits: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: what stands in the first column, such as a codec.
        cells: by the key of their column; what no column asks for is not shown.
        source: where the figures are published; "" if they are measured here.
    """

    name: str
    cells: Mapping[str, Cell]
    source: str = ""


@dataclass(frozen=True)
class Table:
    """What `FORMATS` writes.

    Args:
        title: one line.
        columns: beside the names of the rows and whether these are published or measured, which are always shown.
        rows: in their order.
        notes: sentences below the table: n, seed, scorers, stand-ins, machine.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default=())

    def sources(self) -> list[str]:
        """Of its published rows, each once, in the order of the rows."""
        return list(dict.fromkeys(row.source for row in self.rows if row.source))


def to_markdown(table: Table) -> str:
    """-> a title, a table in pipes, and a list of notes"""
    grid = tabulate(_grid(table, lambda text: text.replace("|", "\\|")), tablefmt="pipe", **_options(table))
    notes = [f"- {note}" for note in _notes(table)]
    return "\n".join([f"**{table.title}**", "", grid, *([""] if notes else []), *notes])


def to_latex(table: Table) -> str:
    """-> a `table` environment for the package booktabs; what is special to LaTeX is escaped"""
    grid = tabulate(_grid(table), tablefmt="latex_booktabs", **_options(table))
    notes = [f"\\par\\footnotesize {_escape(note)}" for note in _notes(table)]
    caption = f"\\caption{{{_escape(table.title)}}}"
    return "\n".join(["\\begin{table}", "\\centering", caption, grid, *notes, "\\end{table}"])


def to_text(table: Table) -> str:
    """-> aligned columns for a terminal; long cells wrap"""
    grid = tabulate(_grid(table), tablefmt="simple", maxcolwidths=WIDTH, **_options(table))
    return "\n".join([table.title, "", grid, "", *_notes(table)]).rstrip()


def to_csv(table: Table) -> str:
    """-> lines of comments (#: the title and the notes), then CSV as the published tables have it

    The columns are `row`, the keys, and `source`, which is empty in measured rows. Figures are whole, not rounded; a
    column with intervals is followed by `<key>_low` and `<key>_high`.
    """
    wide = {column.key for column in table.columns for row in table.rows if isinstance(_cell(row, column), Interval)}
    names = [name for column in table.columns for name in _names(column.key, column.key in wide)]
    out = io.StringIO()
    out.writelines(f"# {line}\n" for line in [table.title, *table.notes])
    writer = csv.DictWriter(out, ["row", *names, "source"], lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        line: dict[str, Cell] = {"row": row.name, "source": row.source}
        for column in table.columns:
            cell = _cell(row, column)
            line |= (
                zip(_names(column.key, True), cell, strict=True) if isinstance(cell, Interval) else {column.key: cell}
            )
        writer.writerow(line)
    return out.getvalue().rstrip()


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "text": to_text,
}


def _grid(table: Table, escape: Callable[[str], str] = str) -> list[list[str]]:
    """The headings and the rows, as they are shown."""
    marks = {source: f"published [{i}]" for i, source in enumerate(table.sources(), 1)}
    lines = [["", "figures", *(column.heading for column in table.columns)]]
    for row in table.rows:
        cells = [_shown(_cell(row, column), column.digits) for column in table.columns]
        lines.append([row.name, marks.get(row.source, "measured"), *cells])
    return [[escape(text) for text in line] for line in lines]


def _options(table: Table) -> dict:
    align = ["left" if column.digits is None else "right" for column in table.columns]
    return {"headers": "firstrow", "disable_numparse": True, "colalign": ["left", "left", *align]}


def _notes(table: Table) -> list[str]:
    return [*(f"[{i}] {source}" for i, source in enumerate(table.sources(), 1)), *table.notes]


def _cell(row: Row, column: Column) -> Cell:
    return row.cells.get(column.key)


def _names(key: str, wide: bool) -> list[str]:
    return [key, f"{key}_low", f"{key}_high"] if wide else [key]


def _shown(cell: Cell, digits: int | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, Interval):
        value, low, high = (_shown(number, digits) for number in cell)
        return f"{value} ({low} to {high})"
    if isinstance(cell, str) or digits is None:
        return str(cell)
    if 0 < abs(cell) < 10 ** (1 - digits):  # small ones keep two: 0.62 in a column of whole numbers is not 1
        return f"{cell:.2g}"
    return f"{cell:.{digits}f}"


def _escape(text: str) -> str:
    return text.translate(str.maketrans(LATEX_ESCAPE_RULES))
