"""The tables of the paper (arXiv 2502.04465), by the numbers they have there: published values beside measured ones."""

from .ablation import ablation_table
from .columns import COLUMNS, columns_of
from .published import published
from .rendering import FORMATS, Column, Interval, Row, Table, to_csv, to_latex, to_markdown, to_text

__all__ = [
    "COLUMNS",
    "FORMATS",
    "Column",
    "Interval",
    "Row",
    "Table",
    "ablation_table",
    "columns_of",
    "published",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_text",
]
