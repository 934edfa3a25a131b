"""Write files atomically, and lock them."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # on Windows nothing is locked
    fcntl = None  # type: ignore[assignment]


_SAVING = ".saving-"  # how the names of temporary folders start


def printable(text: str | Path) -> str:
    """Return a text or the name of a file as valid Unicode. Bytes of a name that are not UTF-8 become escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file as a whole or not at all.

    Args:
        path: path of the file.

    Yields:
        A temporary path of the same suffix. Its file is renamed to `path` if no error is raised. What a killed process
        left there is removed.
    """
    # A part of the stem, because a name may have at most 255 bytes.
    stem = path.stem[:40]
    temporary = path.with_name(f".{stem}.part{path.suffix}")
    _remove_unused([temporary])
    try:
        lock = lock_until_exit(temporary, create=True)
    except BlockingIOError:  # another process writes the same file
        temporary = path.with_name(f".{stem}.{uuid4().hex}.part{path.suffix}")
        lock = lock_until_exit(temporary, create=True)
    try:
        # The mode that the umask gives to a new file. safetensors changes it, so that only the owner can read the file.
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # The errors of a full disk name no file.
        if not isinstance(error, OSError) or error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, f"{error.strerror}; nothing was written, check the free space", str(path)) from None
    finally:
        unlock(lock)


def write_whole(path: Path, content: bytes) -> None:
    """Write bytes into a file, as a whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Write the files of a folder all together or not at all.

    A new folder appears at once with all its files. In an existing folder, files of the same names are replaced. What
    killed processes left there is removed.

    Args:
        folder: where the files go; created if it does not exist.

    Yields:
        A temporary folder. Its files are moved into `folder` if no error is raised.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for place in (folder.parent, folder):
        _remove_unused(place.glob(f"{_SAVING}*"))
    temporary = (folder if folder.exists() else folder.parent) / f"{_SAVING}{uuid4().hex}"
    temporary.mkdir()
    lock = lock_until_exit(temporary)
    try:
        new_file = temporary / uuid4().hex
        new_file.touch()
        mode = new_file.stat().st_mode & 0o777
        new_file.unlink()
        yield temporary
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        for path in files:
            path.chmod(mode)
        if not folder.exists():
            try:
                temporary.rename(folder)
                return
            except OSError:
                # Another process may have written the folder meanwhile.
                if not folder.exists():
                    raise
        for path in files:
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        unlock(lock)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left anywhere in a folder."""
    for pattern in (f"{_SAVING}*", ".*.part", ".*.part.*"):
        _remove_unused(folder.rglob(pattern))


def _remove_unused(paths: Iterable[Path]) -> None:
    """Remove temporary files and folders unless a process holds their lock."""
    for path in list(paths):
        try:
            lock = lock_until_exit(path)
        except OSError:  # in use, or there is none
            continue
        if lock is None:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        unlock(lock)


# ---- locks ----

# Descriptors of the locks that this process holds.
_locks: set[int] = set()


def lock_until_exit(path: Path, create: bool = False) -> int | None:
    """Lock a file or folder until `unlock`, or until this process ends, however it ends.

    Args:
        path: the file or folder.
        create: make an empty file if there is none.

    Returns:
        A descriptor for `unlock`. None if this file system knows no locks.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: There is no such file, or it cannot be opened.
    """
    # NFS locks only files that are open for writing.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    while True:
        descriptor = os.open(path, flags | os.O_CREAT if create else flags, 0o666)
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise
            return None
        # The process that held the lock before may have renamed or removed the file.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            _locks.add(descriptor)
            return descriptor
        os.close(descriptor)


def unlock(lock: int | None) -> None:
    """Release a lock that `lock_until_exit` returned."""
    if lock is not None:
        _locks.discard(lock)
        os.close(lock)


def _forget_locks() -> None:
    """Close the locks in a forked process: a worker that outlives its killed parent would hold them otherwise."""
    while _locks:
        os.close(_locks.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)


# ---- weights ----


def first_not_finite(tensors: "Mapping[str, Tensor]") -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, or None if all are finite.

    Args:
        tensors: such as the `state_dict()` of a model. Tensors on the meta device have no values and are passed over.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            return name
    return None
