"""What mkdocs cannot do by itself: find packages by their import names, name files outside docs/, and show commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parent.parent
COMMANDS = "{{ commands }}"  # in docs/reference/commands.md


@event_priority(100)  # before mkdocstrings, which ignores a folder that does not exist yet
def on_config(config: Any) -> None:
    """Copy the packages to where they are imported: `pyproject.toml` maps tokenizer/ to focallm.tokenizer and so on."""
    package = ROOT / "build" / "docs" / "focallm"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "focallm", package)
    for name in ("tokenizer", "data", "lm", "tasks"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("weights", "samples", "__pycache__"))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Name files outside docs/ instead of linking to them, and put the help of all commands where it is asked for."""
    # In the repository these links work, but the site does not contain the files.
    markdown = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)\)", _name_file, markdown)
    if COMMANDS not in markdown:
        return markdown
    overview = _help()
    lines = ["```text", overview.rstrip(), "```"]
    # The lines of commands are indented by two spaces, under a heading that is not.
    for line in overview.partition("commands:\n")[2].partition("\n\n")[0].splitlines():
        command = line.split()[0]
        lines += ["", f"## {command}", "", "```text", _help(command).rstrip(), "```"]
    return markdown.replace(COMMANDS, "\n".join(lines))


def _name_file(link: re.Match[str]) -> str:
    """Return the text of a link and the file that it leads to, once if the text already names the file."""
    text, path = link.groups()
    if text.strip("`") in path:
        return f"`{path}`"
    return f"{text} (`{path}`)"


def _help(*command: str) -> str:
    """Run `focallm COMMAND --help`."""
    environment = {**os.environ, "COLUMNS": "90", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "focallm.tasks", *command, "--help"]
    return subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
