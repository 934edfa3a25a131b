"""Files that appear whole or not at all: written under another name, then renamed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path of the same suffix, whose file becomes `path` at the end, or never."""
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write bytes into a file."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """A temporary folder, whose files move into `folder` (made where it is missing) at the end, or never."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        yield Path(temporary)
        for file in Path(temporary).iterdir():
            file.replace(folder / file.name)
