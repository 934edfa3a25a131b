"""Files that appear whole or not at all, written under another name, then renamed; and YAML as people mean it."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml


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


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; PyYAML's own rule of 2005 wants 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> Any:
    """What a YAML file holds.

    Raises:
        OSError: no such file.
        ValueError: it is not YAML.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
