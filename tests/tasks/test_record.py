"""The form in which benchmarks keep their results."""

import json

import pytest

from focallm.tasks.benchmarks.record import make_record, make_row, markdown_table, take_turns, write_record


def test_both_calls_take_turns_after_a_warm_up():
    calls = []
    ours, theirs = take_turns(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3)
    assert len(ours) == len(theirs) == 3
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert min(ours + theirs) >= 0


def test_a_ratio_is_that_of_the_repeats_not_of_the_medians():
    row = make_row("encode", [1.0, 2.0, 4.0], "one by one", [2.0, 2.0, 12.0])
    assert (row.seconds, row.against_seconds) == (2.0, 2.0)
    assert row.ratio == 2.0
    assert (row.ratio_low, row.ratio_high) == (1.5, 2.5)
    single = make_row("encode", [1.0], "one by one", [3.0])
    assert single.ratio == single.ratio_low == single.ratio_high == 3.0
    with pytest.raises(ValueError, match="longer"):  # every repeat has a pair
        make_row("encode", [1.0], "one by one", [1.0, 2.0])


def test_a_record_says_what_its_figures_depend_on(tmp_path):
    row = make_row("encode", [0.5], "padded", [1.0])
    record = make_record("Codec", 2, [row], memory=[{"case": "60 s", "megabytes": 3.2}])
    path = tmp_path / "codec.json"
    write_record(path, record)
    assert json.loads(path.read_text()) == record
    assert {"focallm", "python", "torch", "transformers", "machine", "threads", "date", "title", "rows"} < record.keys()
    table = markdown_table(record)
    assert table.startswith("Codec. ")
    assert "2 threads" in table
    assert "| encode | 0.5 | padded | 1 | 2.00 (2.00 to 2.00) |" in table
    assert "| 60 s | 3 |" in table
