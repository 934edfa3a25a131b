"""Tables, their rows and columns, and how they are written as Markdown, LaTeX, CSV or plain text."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

try:
    from tabulate import LATEX_ESCAPE_RULES, tabulate
except ImportError:
    raise ImportError("tables need tabulate: pip install 'focallm[eval]'") from None

_MAX_CELL_WIDTH = 40  # characters on a terminal; longer cells wrap


class Interval(NamedTuple):
    """A measured value with its confidence interval."""

    value: float
    low: float
    high: float


Cell = float | Interval | str | None  # None, like a missing key, means that there is no such figure


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: of its cells in `Row.cells`, and its name in CSV.
        heading: with the unit, such as "dWER, %".
        digits: digits after the decimal point; None for text. Small values get more, so that two are significant.
    """

    key: str
    heading: str
    digits: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: text of the first column, such as the name of a codec.
        cells: by the keys of their columns.
        source: where the figures were published; "" if they were measured here.
    """

    name: str
    cells: Mapping[str, Cell]
    source: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Every format starts with two columns that are not in `columns`: the name of the row, and whether it is published or
    measured.

    Args:
        title: one line.
        columns: the other columns, in order. Cells without a column are not shown.
        rows: in order.
        notes: sentences below the table, such as n, seed and metrics.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def sources(self) -> list[str]:
        """Return the sources of the published rows without repetition, in the order of the rows."""
        sources = []
        for row in self.rows:
            if row.source and row.source not in sources:
                sources.append(row.source)
        return sources


_COLUMNS = [
    Column("test_set", "test set"),
    Column("task", "task"),
    Column("input", "input"),
    Column("compressor", "compressor"),
    Column("activation", "activation"),
    Column("quantizer", "quantizer"),
    Column("decoder", "decoder"),
    Column("causal", "causal"),
    Column("training_data", "training data"),
    Column("hours", "hours"),
    Column("multilingual", "multilingual"),
    Column("domain", "domain"),
    Column("checkpoint", "checkpoint"),
    Column("license", "license"),
    Column("bit_rate", "kbps", 2),
    Column("sampling_rate", "kHz", 0),
    Column("frame_rate", "frames/s", 1),
    Column("codebooks", "codebooks", 0),
    Column("codebook_size", "codes", 0),
    Column("code_width", "code width", 0),
    Column("params", "parameters, M", 0),
    Column("macs", "MACs, G", 0),
    Column("chunk_ms", "chunk, ms", 0),
    Column("wer", "WER, %", 2),
    Column("er", "ER, %", 2),
    Column("utmos", "UTMOS", 2),
    Column("dnsmos", "DNSMOS P.808", 2),
    Column("dwer", "dWER, %", 2),
    Column("failed", "items above 50 %, %", 0),
    Column("similarity", "Sim x100", 1),
    Column("mel", "mel distance", 3),
    Column("code_usage", "code usage, %", 1),
    Column("normalised_entropy", "norm. entropy, %", 1),
    Column("rtf", "RTF", 0),
    Column("undefined", "undefined scores", 0),
]
COLUMNS = {column.key: column for column in _COLUMNS}


def used_columns(rows: Iterable[Row]) -> list[Column]:
    """Return the columns that have a figure in any of the rows, in the order of `COLUMNS`."""
    rows = list(rows)
    columns = []
    for key, column in COLUMNS.items():
        if any(row.cells.get(key) is not None for row in rows):
            columns.append(column)
    return columns


def to_markdown(table: Table) -> str:
    """Return a title, a pipe table, and a list of notes."""
    grid = _grid(table, lambda text: text.replace("|", "\\|"))
    lines = [f"**{table.title}**", "", tabulate(grid, tablefmt="pipe", **_tabulate_options(table))]
    notes = _numbered_notes(table)
    if notes:
        lines.append("")
    for note in notes:
        lines.append(f"- {note}")
    return "\n".join(lines)


def to_latex(table: Table) -> str:
    """Return a `table` environment for the package booktabs, with special characters escaped."""
    lines = ["\\begin{table}", "\\centering", f"\\caption{{{_escape_latex(table.title)}}}"]
    # tabulate escapes the cells itself.
    lines.append(tabulate(_grid(table), tablefmt="latex_booktabs", **_tabulate_options(table)))
    for note in _numbered_notes(table):
        lines.append(f"\\par\\footnotesize {_escape_latex(note)}")
    lines.append("\\end{table}")
    return "\n".join(lines)


def to_text(table: Table) -> str:
    """Return aligned columns for a terminal; long cells wrap."""
    grid = tabulate(_grid(table), tablefmt="simple", maxcolwidths=_MAX_CELL_WIDTH, **_tabulate_options(table))
    return "\n".join([table.title, "", grid, "", *_numbered_notes(table)]).rstrip()


def to_csv(table: Table) -> str:
    """Return comments (lines with #: the title and the notes), then CSV in the form of the published tables.

    The columns are `row`, the keys, and `source`, which is empty in measured rows. Figures are not rounded. A column
    with intervals is followed by `<key>_low` and `<key>_high`.
    """
    names = ["row"]
    for column in table.columns:
        names.append(column.key)
        if any(isinstance(row.cells.get(column.key), Interval) for row in table.rows):
            names += [f"{column.key}_low", f"{column.key}_high"]
    names.append("source")

    out = io.StringIO()
    for line in [table.title, *table.notes]:
        out.write(f"# {line}\n")
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        fields: dict[str, Cell] = {"row": row.name, "source": row.source}
        for column in table.columns:
            cell = row.cells.get(column.key)
            if isinstance(cell, Interval):
                fields[column.key] = cell.value
                fields[f"{column.key}_low"] = cell.low
                fields[f"{column.key}_high"] = cell.high
            else:
                fields[column.key] = cell
        writer.writerow(fields)
    return out.getvalue().rstrip()


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "text": to_text,
}


def _grid(table: Table, escape: Callable[[str], str] = str) -> list[list[str]]:
    """Return the headings and the rows as text."""
    labels = {"": "measured"}
    for i, source in enumerate(table.sources(), 1):
        labels[source] = f"published [{i}]"
    headings = ["", "figures"]
    for column in table.columns:
        headings.append(escape(column.heading))
    grid = [headings]
    for row in table.rows:
        line = [escape(row.name), labels[row.source]]
        for column in table.columns:
            cell = _format_cell(row.cells.get(column.key), column.digits)
            line.append(escape(cell))
        grid.append(line)
    return grid


def _format_cell(cell: Cell, digits: int | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, Interval):
        value = _format_cell(cell.value, digits)
        return f"{value} ({_format_cell(cell.low, digits)} to {_format_cell(cell.high, digits)})"
    if isinstance(cell, str) or digits is None:
        return str(cell)
    # Small values keep two significant digits: 0.62 in a column of whole numbers is not 1.
    if 0 < abs(cell) < 10 ** (1 - digits):
        return f"{cell:.2g}"
    # Zero has no sign.
    return f"{cell + 0.0:.{digits}f}"


def _tabulate_options(table: Table) -> dict:
    alignment = ["left", "left"]
    for column in table.columns:
        alignment.append("left" if column.digits is None else "right")
    # Numbers are formatted already: tabulate would parse and change them.
    return {"headers": "firstrow", "disable_numparse": True, "colalign": alignment}


def _numbered_notes(table: Table) -> list[str]:
    """Return the sources by the numbers that rows refer to, then the notes."""
    notes = []
    for i, source in enumerate(table.sources(), 1):
        notes.append(f"[{i}] {source}")
    return [*notes, *table.notes]


def _escape_latex(text: str) -> str:
    return text.translate(str.maketrans(LATEX_ESCAPE_RULES))
