"""The tables of the paper (arXiv 2502.04465), by the numbers they have there: published values beside measured ones."""

from pathlib import Path

from ...tokenizer.files import write_whole
from .ablation import ablation_table
from .codecs import codecs_table, data_table, ts3_table
from .conversion import conversion_table
from .downstream import downstream_table
from .inputs import inputs_table
from .rendering import FORMATS, Table
from .resynthesis import clean_table, noisy_table
from .streaming import streaming_table
from .table_config import TableConfig

__all__ = ["TABLES", "Table", "TableConfig", "make_tables"]

TABLES = {
    1: codecs_table,
    2: clean_table,
    3: noisy_table,
    4: conversion_table,
    5: downstream_table,
    6: ablation_table,
    7: data_table,
    8: ts3_table,
    9: streaming_table,
    10: inputs_table,
}
SUFFIXES = {"markdown": "md", "latex": "tex", "csv": "csv", "text": "txt"}


def numbers_of(name: str) -> list[int]:
    """ "all", or the number of a table.

    Raises:
        ValueError: something else.
    """
    if name == "all":
        return list(TABLES)
    if not name.isdigit() or int(name) not in TABLES:
        raise ValueError(f"the paper has the tables 1 to {len(TABLES)}, or all of them, found {name!r}")
    return [int(name)]


def make_tables(name: str, config: TableConfig, kind: str, out: Path | None) -> str:
    """Measure tables; -> them, one below the other.

    Args:
        name: "all" or a number.
        config: what they are about.
        kind: a key of `FORMATS`.
        out: a folder where each table is written in all formats, too, as soon as it is made.

    Raises:
        ValueError, OSError, ImportError: as the tables' functions.
    """
    shown = []
    for number in numbers_of(name):
        table = TABLES[number](config)
        shown.append(FORMATS[kind](table))
        for other, suffix in SUFFIXES.items() if out else ():
            assert out is not None
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / f"table_{number:02d}.{suffix}", f"{FORMATS[other](table)}\n".encode())
    return "\n\n".join(shown)
