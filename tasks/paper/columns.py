"""The columns that tables have, by the keys of their cells."""

from collections.abc import Iterable

from .rendering import Column, Row

COLUMNS: dict[str, Column] = {
    column.key: column
    for column in (
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
        Column("licence", "licence"),
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
    )
}


def columns_of(rows: Iterable[Row]) -> list[Column]:
    """-> those of `COLUMNS` that a row has a cell for, in the order of `COLUMNS`"""
    keys = {key for row in rows for key, cell in row.cells.items() if cell is not None}
    return [column for key, column in COLUMNS.items() if key in keys]
