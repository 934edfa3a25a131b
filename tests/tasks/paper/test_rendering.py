"""The paper's figures as they are read, and tables in the formats they are written in."""

import csv
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focallm.tasks.paper.published import FOLDER, published_rows
from focallm.tasks.paper.rendering import (
    COLUMNS,
    FORMATS,
    Column,
    Interval,
    Row,
    Table,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
    used_columns,
)

BASELINES = ["EnCodec", "DAC", "WavLM6-KM", "SpeechTokenizer", "SemantiCodec", "Mimi", "WavTokenizer", "BigCodec"]
BASELINES += ["Stable Codec"]
FOCALCODECS = ["FocalCodec@50", "FocalCodec@25", "FocalCodec@12.5"]
TABLE = Table(
    "Table 2: 100 % of it_all",
    [Column("test_set", "test set"), Column("dwer", "dWER, %", 2), Column("rtf", "RTF", 0)],
    [
        Row("EnCodec", {"dwer": 8.08, "rtf": 109.0, "test_set": "clean"}, "a paper & its copy"),
        Row("SemantiCodec", {"dwer": 8.97, "rtf": 0.62}, "a paper & its copy"),
        Row("Mimi", {"dwer": 5.7}, "another"),
        Row("mini|tiny", {"dwer": Interval(42.731, 40.004, 44.996), "rtf": 30.4, "unknown": 1.0}),
    ],
    ["n = 200, seed 0", "50 % of it on 2_cores"],
)


def _markdown_cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines[:1] + lines[2:]]


def _latex_cells(text):
    lines = [line.removesuffix("\\\\") for line in text.splitlines() if line.endswith("\\\\")]
    return [[re.sub(r"\\([&%$#_{}])", r"\1", c.strip()) for c in re.split(r"(?<!\\)&", line)] for line in lines]


def _text_cells(text):
    lines = [line for line in text.splitlines()[2:] if line.strip()]
    ends = [match.span() for match in re.finditer("-+", lines[1])]
    return [[line[a:b].strip() for a, b in ends] for line in lines[:1] + lines[2 : 2 + len(TABLE.rows)]]


def _records(text):
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@pytest.mark.parametrize("number", range(1, 11))
def test_published_rows_have_known_columns_and_a_source(number):
    rows = published_rows(number)
    assert rows
    for row in rows:
        assert row.name
        assert re.fullmatch(r"arXiv 2502\.04465v[12], Table \d+", row.source)
        assert row.cells
        for key, cell in row.cells.items():
            assert isinstance(cell, str if COLUMNS[key].digits is None else float)
            assert isinstance(cell, str) or (cell >= 0 and not math.isnan(cell))
    identity = [(row.name, *(c for k, c in row.cells.items() if isinstance(c, str) or k == "chunk_ms")) for row in rows]
    assert len(set(identity)) == len(rows)


def test_there_are_ten_published_tables():
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"table_{n:02d}.csv" for n in range(1, 11)]
    with pytest.raises(ValueError, match="tables 1 to 10, found 11"):
        published_rows(11)


@pytest.mark.parametrize(
    ("number", "key", "groups", "extra"),
    [
        (1, None, [None], FOCALCODECS),
        (2, "test_set", ["LibriSpeech", "MLS"], FOCALCODECS),
        (3, "test_set", ["VoiceBank", "Libri1Mix"], FOCALCODECS),
        (4, None, [None], FOCALCODECS),
        (5, "task", ["ASR", "SI", "SER", "SE", "SS", "TTS", "TTS below 20 s"], FOCALCODECS),
        (7, None, [None], []),
    ],
)
def test_each_table_has_all_codecs_of_the_paper(number, key, groups, extra):
    for group in groups:
        names = [row.name for row in published_rows(number) if row.cells.get(key) == group]
        assert [name for name in names if name != "Reference"] == BASELINES + extra


@pytest.mark.parametrize(
    ("number", "name", "which", "cells"),
    [
        (1, "FocalCodec@12.5", {}, {"params": 145, "macs": 8, "bit_rate": 0.16}),
        (2, "Reference", {"test_set": "LibriSpeech"}, {"utmos": 4.09, "dwer": 0, "similarity": 100}),
        (
            2,
            "FocalCodec@50",
            {"test_set": "LibriSpeech"},
            {"utmos": 4.05, "dwer": 2.18, "similarity": 97.4, "rtf": 185},
        ),
        (2, "FocalCodec@25", {"test_set": "LibriSpeech"}, {"code_usage": 99.8, "normalised_entropy": 98.4, "rtf": 195}),
        (2, "FocalCodec@12.5", {"test_set": "MLS"}, {"utmos": 3.37, "dwer": 54.15}),
        (3, "FocalCodec@50", {"test_set": "VoiceBank"}, {"dnsmos": 3.16, "dwer": 8.08, "similarity": 91.3}),
        (3, "FocalCodec@50", {"test_set": "Libri1Mix"}, {"dnsmos": 2.93, "dwer": 27.89, "similarity": 91.6}),
        (4, "FocalCodec@25", {}, {"utmos": 3.40, "dwer": 23.59, "similarity": 92.6}),
        (5, "FocalCodec@25", {"task": "ASR"}, {"wer": 21.12}),
        (5, "FocalCodec@50", {"task": "SI"}, {"er": 4.48}),
        (5, "FocalCodec@12.5", {"task": "SER"}, {"er": 46.30}),
        (5, "FocalCodec@50", {"task": "SE"}, {"dnsmos": 3.47, "dwer": 10.93, "similarity": 91.4}),
        (5, "FocalCodec@50", {"task": "SS"}, {"dnsmos": 3.71, "dwer": 73.87, "similarity": 89.0}),
        (5, "FocalCodec@50", {"task": "TTS"}, {"utmos": 4.05, "dwer": 39.58, "similarity": 92.9}),
        (5, "FocalCodec@25", {"task": "TTS below 20 s"}, {"dwer": 16.75}),
        (6, "conformer", {}, {"dwer": 3.58}),
        (9, "FocalCodec@50", {"chunk_ms": 125.0}, {"utmos": 2.17, "dwer": 6.06}),
        (9, "FocalCodec@50", {"chunk_ms": math.inf}, {"utmos": 4.05, "dwer": 2.18}),
        (10, "FocalCodec@50", {"input": "continuous"}, {"dnsmos": 3.76, "dwer": 17.35, "similarity": 93.8}),
    ],
)
def test_published_figures_match_other_sources(number, name, which, cells):
    (row,) = [row for row in published_rows(number) if row.name == name and which.items() <= row.cells.items()]
    assert cells.items() <= row.cells.items()


def test_bit_rate_follows_from_frame_rate_and_codebooks():
    for row in published_rows(1):
        rate, books, size = (row.cells[key] for key in ("frame_rate", "codebooks", "codebook_size"))
        assert rate * books * math.log2(size) / 1000 == pytest.approx(row.cells["bit_rate"], abs=0.01)


def test_tables_agree_on_figures_that_they_share():
    clean = {row.name: row.cells for row in published_rows(2) if row.cells["test_set"] == "LibriSpeech"}
    chunks = [row for row in published_rows(9) if row.cells["chunk_ms"] == math.inf]
    for row in [*published_rows(8), *chunks]:
        for key in row.cells.keys() & clean.get(row.name, {}).keys():
            assert row.cells[key] == clean[row.name][key]


def test_all_formats_have_the_same_cells():
    expected = [
        ["", "figures", "test set", "dWER, %", "RTF"],
        ["EnCodec", "published [1]", "clean", "8.08", "109"],
        ["SemantiCodec", "published [1]", "-", "8.97", "0.62"],
        ["Mimi", "published [2]", "-", "5.70", "-"],
        ["mini|tiny", "measured", "-", "42.73 (40.00 to 45.00)", "30"],
    ]
    assert _markdown_cells(to_markdown(TABLE)) == expected
    assert _latex_cells(to_latex(TABLE)) == expected
    assert _text_cells(to_text(TABLE)) == expected
    records = _records(to_csv(TABLE))
    assert [record["row"] for record in records] == [line[0] for line in expected[1:]]
    for record, line in zip(records, expected[1:], strict=True):
        assert record["dwer"] == "" or f"{float(record['dwer']):.2f}" == line[3].split()[0]


def test_csv_has_unrounded_figures_and_interval_bounds():
    records = _records(to_csv(TABLE))
    assert list(records[0]) == ["row", "test_set", "dwer", "dwer_low", "dwer_high", "rtf", "source"]
    measured = records[-1]
    assert [float(measured[key]) for key in ("dwer", "dwer_low", "dwer_high", "rtf")] == [42.731, 40.004, 44.996, 30.4]
    assert (records[0]["source"], measured["source"], records[0]["dwer_low"]) == ("a paper & its copy", "", "")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_sources_and_notes(name):
    text = FORMATS[name](TABLE).replace("\\", "")
    for part in (TABLE.title, *TABLE.notes, "a paper & its copy", "another"):
        assert part in text


def test_published_figures_keep_their_printed_digits():
    for path in sorted(FOLDER.iterdir()):
        with path.open() as file:
            printed = list(csv.DictReader(line for line in file if not line.startswith("#")))
        rows = published_rows(int(path.stem[-2:]))
        columns = used_columns(rows)
        shown = _markdown_cells(to_markdown(Table("t", columns, rows)))
        for cells, line in zip(shown[1:], printed, strict=True):
            for cell, column in zip(cells[2:], columns, strict=True):
                assert cell == (line[column.key] or "-") or float(cell) == float(line[column.key])


def test_latex_escapes_title_cells_and_notes():
    text = to_latex(TABLE)
    assert "100 \\% of it\\_all" in text
    assert "2\\_cores" in text
    assert "a paper \\& its copy" in text
    assert all(rule in text for rule in ("\\toprule", "\\midrule", "\\bottomrule"))


@pytest.mark.parametrize("number", range(1, 11))
@pytest.mark.parametrize("name", FORMATS)
def test_a_table_can_have_only_published_rows(number, name):
    rows = published_rows(number)
    text = FORMATS[name](Table(f"Table {number}", used_columns(rows), rows))
    assert rows[0].source in text
    assert "measured" not in text
    if name == "csv":
        assert [record["row"] for record in _records(text)] == [row.name for row in rows]


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), min_size=1, max_size=4))
def test_csv_round_trip_of_any_text(names):
    table = Table("t", [Column("task", "task")], [Row("r", {"task": name}) for name in names])
    assert [line["task"] for line in _records(to_csv(table))] == names
