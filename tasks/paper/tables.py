"""All tables by their numbers, and the command that measures and writes them."""

from pathlib import Path

from ...tokenizer.files import write_whole
from .codecs import (
    ablation_table,
    clean_table,
    codecs_table,
    noisy_table,
    streaming_table,
    training_data_table,
    ts3_table,
)
from .conversion import conversion_table
from .downstream import downstream_table, inputs_table
from .rendering import FORMATS
from .table_config import TableConfig

TABLES = {
    1: codecs_table,
    2: clean_table,
    3: noisy_table,
    4: conversion_table,
    5: downstream_table,
    6: ablation_table,
    7: training_data_table,
    8: ts3_table,
    9: streaming_table,
    10: inputs_table,
}
_SUFFIXES = {"markdown": "md", "latex": "tex", "csv": "csv", "text": "txt"}


def make_tables(name: str, config: TableConfig, format: str, out: Path | None) -> str:
    """Measure tables and return them as text, one below the other.

    Args:
        name: the number of a table, or "all".
        config: configuration of the tables.
        format: a key of `FORMATS`.
        out: a folder. Each table is also written there in all formats as soon as it is measured.

    Raises:
        ValueError: There is no such table, or the config lacks what the table needs.
        OSError: A file or trained weights cannot be read.
        ImportError: A metric is not installed.
    """
    texts = []
    for number in _table_numbers(name):
        make_table = TABLES[number]
        table = make_table(config)
        texts.append(FORMATS[format](table))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for file_format, suffix in _SUFFIXES.items():
                text = FORMATS[file_format](table) + "\n"
                write_whole(out / f"table_{number:02d}.{suffix}", text.encode())
    return "\n\n".join(texts)


def _table_numbers(name: str) -> list[int]:
    if name == "all":
        return list(TABLES)
    if not name.isdigit() or int(name) not in TABLES:
        raise ValueError(f"the paper has the tables 1 to {len(TABLES)}, or all of them, found {name!r}")
    return [int(name)]
