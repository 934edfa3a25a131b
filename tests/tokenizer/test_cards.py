"""Texts of others stay texts in the cards of models."""

import re

import pytest
import yaml

from focallm.tokenizer.cards import code_block, escape, front_matter, table_row, unescape

TEXTS = [
    "CC BY 4.0",
    "a | b",
    "two\nlines\r\n---\nlicense: other",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1)) and ![](http://x)",
    "`code` *strong* &lt; \\",
    "# title",
    "__all__ rights _reserved_, snake_case",
    "yes",
    "\u2028- item: {a: 1}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_in_its_cell_and_on_its_line(text):
    row = table_row("before", text, 1.5)
    assert row.count("\n") == 0
    assert row.replace("\\|", "").count("|") == 4
    assert unescape(escape(text)) == " ".join(text.split())
    for opening in "<[`":
        assert opening not in escape(text).replace("\\" + opening, "")
    assert not re.search(r"(?<!\\)\b_|(?<!\\)_\b", escape(text))
    assert "\n" not in code_block(text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_a_value_of_the_front_matter(text):
    lines = "\n".join(front_matter({"license": text, "library_name": "focallm"})).split("\n")
    assert lines[0] == lines[-2] == "---"
    assert "---" not in lines[1:-2]
    assert yaml.safe_load("\n".join(lines[1:-2])) == {"license": text, "library_name": "focallm"}
