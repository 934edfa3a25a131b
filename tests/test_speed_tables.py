"""The tables of the pages are those of the records in benchmarks/."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "benchmark_tables.py"))


@pytest.mark.parametrize("page", SCRIPT["PAGES"], ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert SCRIPT["with_tables"](text) == text, "run python scripts/benchmark_tables.py"


def test_a_table_replaces_what_stands_between_its_markers():
    text = "a\n\n<!-- codec -->\nold\n<!-- end codec -->\n\nb\n"
    written = SCRIPT["with_tables"](text)
    assert "old" not in written
    assert "| one by one |" in written
    assert written.startswith("a\n\n<!-- codec -->\n\n")
    assert written.endswith("\n\n<!-- end codec -->\n\nb\n")
    assert SCRIPT["with_tables"](written) == written
