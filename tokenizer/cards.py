"""Model cards: Markdown with a YAML block in front, in which texts of others cannot change the layout."""

import re
from pathlib import Path
from typing import Any

import yaml

from .files import write_whole

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


def write_first_card(folder: Path, title: str, facts: dict[str, Any], usage: str) -> None:
    """Write the README.md of weights that are not published yet, unless there is one, which its owner may have edited.

    Args:
        folder: of the weights.
        title: of the card.
        facts: table of what is known about them.
        usage: a line of Python that loads them.
    """
    path = folder / "README.md"
    if path.exists():
        return
    lines = front_matter({"library_name": "focallm", "license": "unknown", "tags": ["speech", "audio"]})
    lines += [f"# {escape(title)}", "", "| | |", "|---|---|"]
    lines += [table_row(name, str(value)) for name, value in facts.items()]
    lines += [
        "",
        f"Load it with `{usage}`.",
        "",
        "Before publishing, replace the license above by one that the licenses of the weights it was made from and of "
        "the training recordings permit, and report what was measured.",
    ]
    write_card(path, lines)
