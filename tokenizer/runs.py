"""What every long run needs: one process at a time in its folder, a record that its result is complete, and a
description of the weights that it starts from, by which they are recognized after a move.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import lock_until_exit, remove_leftovers, unlock, write_whole

_RECORD = "finished.json"


@contextmanager
def locked(target: Path, lock: Path | None = None) -> Iterator[None]:
    """Let no other process write to a folder or a file within this context.

    The lock ends with this process, however that ends, so a lock is never stale. What killed processes left in the
    folder is removed.

    Args:
        target: the folder, made if it does not exist, or the file.
        lock: the file that is locked. By default it is in the folder `target`, and each of the processes that
            `accelerate launch` starts has its own.

    Raises:
        OSError: Another process holds the lock. The message names it.
    """
    lock = lock or target / f".lock-{os.environ.get('RANK', 0)}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = lock_until_exit(lock, create=True)
    except BlockingIOError:
        holder = "another process"
        # It may end at this moment, and remove the file.
        with suppress(FileNotFoundError):
            holder = lock.read_text(encoding="utf-8") or holder
        raise OSError(
            f"{target} is in use: {holder} writes to it. Wait until it has finished, stop it, or name another "
            f"{'folder' if target.is_dir() else 'file'}"
        ) from None
    try:
        lock.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        if target.is_dir():
            remove_leftovers(target)
        yield
    finally:
        lock.unlink(missing_ok=True)
        unlock(descriptor)


def write_finished(run: Path, result: Path) -> None:
    """Record that a run has finished, with a hash of every file of its result.

    Args:
        run: folder of the run.
        result: folder of the result.
    """
    write_whole(run / _RECORD, json.dumps(_hashes(result), indent=1).encode())


def is_finished(run: Path, result: Path) -> bool:
    """Check that a run has finished and that its result is what it wrote. The existence of the folder proves neither.

    Files that were added to the result later do not matter.

    Args:
        run: folder of the run.
        result: folder of the result.
    """
    try:
        expected = json.loads((run / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(expected, dict) and bool(expected) and expected.items() <= _hashes(result).items()


def forget_finished(run: Path) -> None:
    """Remove the record that a run has finished, because it goes on."""
    (run / _RECORD).unlink(missing_ok=True)


def _hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of all files in a folder except README.md, which its owner may edit."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != "README.md":
            hashes[name] = file_sha256(path)
    return hashes


def describe_source(source: str) -> str | dict[str, str]:
    """Describe the weights that a run starts from: the path and hash of a folder, or the name of anything else.

    Args:
        source: a folder or a hub id.
    """
    folder = Path(source)
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.pt")])
    if not weights:
        return source
    digest = hashlib.sha256()
    for path in weights:
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return {"path": source, "sha256": digest.hexdigest()}


def identify_source(source: str | dict[str, str]) -> str:
    """Return what stays the same when weights are moved: their hash, or the name of what is no folder.

    Args:
        source: from `describe_source`, or a path, which is what earlier versions recorded.
    """
    described = describe_source(source) if isinstance(source, str) else source
    return described if isinstance(described, str) else described["sha256"]


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, which may be larger than the memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
