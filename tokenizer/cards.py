"""Model cards: Markdown with a YAML block in front, in which texts of others cannot change the layout."""

import re
from pathlib import Path
from typing import Any

import yaml

from .files import write_whole
from .hub import CARD, PLACE

UNKNOWN = "unknown"  # the hub knows a license of this name
CODE_LICENSE = "Apache-2.0"

# Characters that begin code, links, HTML, emphasis or a cell of a table. An underscore inside a word begins nothing.
_SPECIAL = re.compile(r"([\\`*<>|&\[\]~$]|(?<![^\W_])_|_(?![^\W_]))")


def escape(text: Any) -> str:
    """Return a text as one line of Markdown that shows exactly its characters."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def unescape(markdown: str) -> str:
    """Return the text that `escape` made into Markdown."""
    return re.sub(r"\\([\\`*<>|&\[\]~$_])", r"\1", markdown)


def code_block(command: str) -> str:
    """Return a command as a block of one line."""
    return "    " + " ".join(command.split())


def front_matter(values: dict[str, Any]) -> list[str]:
    """Return the lines of the YAML block that a model hub reads."""
    block = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    return ["---", *block.rstrip("\n").split("\n"), "---", ""]


def table_row(*cells: str | int | float) -> str:
    """Return a row of a table; floats have two decimals."""
    texts = [f"{cell:.2f}" if isinstance(cell, float) else escape(cell) for cell in cells]
    return f"| {' | '.join(texts)} |"


def write_card(path: Path, lines: list[str]) -> None:
    """Write the lines of a card."""
    write_whole(path, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))


def section(title: str, *lines: str) -> list[str]:
    """Return the lines of a section, with an empty line in front."""
    return ["", f"## {title}", "", *lines]


def usage_section(*snippets: str) -> list[str]:
    """Return the section that shows Python code, in which `OWNER/NAME` stands for the model."""
    lines = section("Use", f"Replace `{PLACE}` by this folder or its hub id.")
    for snippet in snippets:
        lines += ["", "```python", *snippet.strip("\n").split("\n"), "```"]
    return lines


def license_section(licenses: dict[str, str]) -> list[str]:
    """Return the section of licenses.

    Args:
        licenses: what is licensed, and its license or `UNKNOWN`. The code of this package is added.
    """
    rows = [table_row(what, license) for what, license in licenses.items()]
    return section("Licenses", "| what | license |", "|---|---|", table_row("code of focallm", CODE_LICENSE), *rows)


def license_of(source: str | Path) -> str:
    """Return the license that the card of a model states, if the model is a folder here, or else `UNKNOWN`."""
    path = Path(source, CARD)
    if not path.is_file():
        return UNKNOWN
    block = re.match(r"---\n(.*?)\n---\n", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        values = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        return UNKNOWN
    return str(values.get("license", UNKNOWN)) if isinstance(values, dict) else UNKNOWN


def write_first_card(
    folder: Path, title: str, metadata: dict[str, Any], facts: dict[str, str], body: list[str]
) -> None:
    """Write the card of weights that are not released yet, unless there is one, which its owner may have edited.

    Args:
        folder: of the weights.
        title: of the card.
        metadata: for the hub, besides the license, which is unknown.
        facts: table of what is known about the weights.
        body: the sections for use, licenses and limits. Training data and results are unknown.
    """
    path = folder / CARD
    if path.exists():
        return
    lines = front_matter({"license": UNKNOWN, **metadata})
    lines += [f"# {escape(title)}", "", "| | |", "|---|---|"]
    lines += [table_row(name, value) for name, value in facts.items()]
    lines += section("Training data", "Unknown: it is not recorded with these weights.")
    lines += section("Results", "Unknown: no measurement is recorded with these weights.")
    lines += [
        *body,
        "",
        "Before publishing, replace what is unknown, above all the license: name one that the licenses of the weights "
        "it was made from and of the training recordings permit.",
    ]
    write_card(path, lines)
