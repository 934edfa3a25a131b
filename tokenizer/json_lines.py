"""Files with one JSON value per line: records of evaluations, logs of runs, manifests of corpora.

Records and logs are appended to for days, and the process may be killed, or the disk full, in the middle of a line.
"""

import json
import os
from pathlib import Path
from typing import IO, Any


def read_json_lines(path: Path, appended: bool = False) -> list[tuple[int, Any]]:
    """Read a file with one JSON value per line. Empty lines are passed over.

    Args:
        path: path of the file, in UTF-8.
        appended: whether `append_json_line` writes the file. Then a process that was killed may have left a last line
            that is incomplete, which is left out.

    Returns:
        Pairs of a line number, from 1, and the value.

    Raises:
        OSError: The file does not exist.
        ValueError: A line is not JSON; the message names file and line.
    """
    # Only a line feed ends a line. `splitlines` would also cut at the line separators that a text may hold.
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line.decode("utf-8"))))
        except (ValueError, RecursionError) as error:
            # What follows the last line feed.
            if appended and number == len(lines):
                break
            if isinstance(error, UnicodeDecodeError):
                raise ValueError(
                    f"{path}, line {number} is not UTF-8 text ({error}): convert the file, for example with iconv"
                ) from None
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}): write one value per line, or delete this line"
            ) from None
    return values


def append_json_line(path: Path, value: Any) -> None:
    """Append a JSON value as a line to a file. An incomplete last line, which a killed process left, is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                _end_last_line(file)
        file.write(json.dumps(value).encode() + b"\n")


def _end_last_line(file: IO[bytes]) -> None:
    """End the last line of a file if it is complete, and remove it if it is not."""
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
        file.write(b"\n")
    except ValueError:
        file.truncate(start)
