"""The record of what was measured: JSON lines, one for every item of a system, and which code wrote them."""

import json
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from .metrics import Line


def read_record(record: Path | None) -> dict[tuple[str, str, str], list[Line]]:
    """Lines, one for each sound, by item, system and its key; of several such the last."""
    found: dict[tuple[str, str, str], list[Line]] = {}
    if record is not None and record.exists():
        whole = [text for text in record.read_text().splitlines() if text.endswith("]")]  # a kill cuts the last
        for lines in map(json.loads, whole):
            found[lines[0]["id"], lines[0]["system"], lines[0]["key"]] = lines
    return found


def append_to_record(record: Path | None, lines: list[Line]) -> None:
    """Add the lines of an item."""
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a") as file:
            file.write(json.dumps(lines) + "\n")


@lru_cache(maxsize=1)
def code_version() -> str:
    """The commit of this checkout, with a + if files differ from it; or the version that is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return metadata.version("focallm")

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
