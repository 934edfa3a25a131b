"""Write files atomically, lock them, read YAML, and turn YAML into configuration dataclasses."""

import dataclasses
import os
import re
import shutil
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import uuid4

import yaml

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # on Windows nothing is locked
    fcntl = None  # type: ignore[assignment]

ConfigT = TypeVar("ConfigT")

_SAVING = ".saving-"  # how the names of temporary folders start

# How an error message names a type that it expected.
_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    tuple: "a list",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


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
            temporary.rename(folder)
            return
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


# ---- YAML ----


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does. PyYAML follows YAML 1.1, which requires 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> Any:
    """Read a YAML file.

    Raises:
        OSError: The file does not exist.
        ValueError: The file is not YAML.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no YAML file {path}: check the path")
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None


def load_config(cls: type[ConfigT], source: Path | str | Mapping[str, Any], name: str = "config") -> ConfigT:
    """Build a configuration dataclass from YAML.

    Keys are field names, and type hints say which values are allowed: simple types, `Path`, `Literal`, unions, tuples,
    lists, dicts and nested dataclasses. An int is accepted for a float and stays an int; a bool is never a number. An
    empty file gives the defaults.

    Args:
        cls: a dataclass.
        source: path of a YAML file, or a mapping.
        name: what error messages call a mapping.

    Raises:
        OSError: The file does not exist.
        ValueError: All mistakes of the file in one message: unknown keys, missing keys, values of a wrong type, and
            errors of the dataclasses' `__post_init__`. The message starts with the path, or with `name`.
    """
    values: Any = source
    if not isinstance(source, Mapping):
        name = str(source)
        values = read_yaml(source)
        if values is None:
            values = {}
    errors: list[str] = []
    config = _build_dataclass(cls, values, "", errors)
    if errors:
        raise ValueError(f"{name}: {'; '.join(errors)}")
    return config


def _build_dataclass(cls: Any, values: Any, key_path: str, errors: list[str]) -> Any:
    """Return an instance of a dataclass, or None after adding to `errors`. `key_path` is the path of keys to it."""
    prefix = f"{key_path}: " if key_path else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    if not isinstance(values, Mapping):
        errors.append(f"{prefix}expected a mapping with keys of {', '.join(fields)}; found {values!r}")
        return None
    num_errors = len(errors)
    unknown = [key for key in values if key not in fields]
    if unknown:
        errors.append(f"{prefix}unknown keys {unknown}; known keys: {', '.join(fields)}")
    missing = [key for key, field in fields.items() if key not in values and _is_required(field)]
    if missing:
        errors.append(f"{prefix}missing keys {missing}")
    hints = get_type_hints(cls)
    arguments = {}
    for key in fields:
        if key in values:
            arguments[key] = _convert(values[key], hints[key], f"{key_path}.{key}" if key_path else key, errors)
    if len(errors) > num_errors:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:
        errors.append(f"{prefix}{error}")
        return None


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, key_path: str, errors: list[str]) -> Any:
    """Convert a YAML value to the type `hint`: lists to tuples, strings to paths, mappings to dataclasses."""
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, value, key_path, errors)
    kind = get_origin(hint) or hint
    if kind in (Union, types.UnionType):
        return _convert_union(value, hint, key_path, errors)
    if kind in (tuple, list) and isinstance(value, tuple | list):
        return _convert_items(value, hint, key_path, errors)
    if kind is dict and isinstance(value, Mapping):
        key_hint, value_hint = get_args(hint) or (Any, Any)
        converted = {}
        for key, item in value.items():
            converted_key = _convert(key, key_hint, f"the key {key!r} of {key_path}", errors)
            converted[converted_key] = _convert(item, value_hint, f"{key_path}.{key}", errors)
        return converted
    if kind is Path and isinstance(value, str):
        return Path(value)
    # Types are compared exactly because bool is a subclass of int.
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    if kind is Literal and value in get_args(hint):
        return value
    errors.append(f"{key_path}: expected {_describe(hint)}, found {value!r}")
    return None


def _convert_union(value: Any, hint: Any, key_path: str, errors: list[str]) -> Any:
    """Convert a value to the first member of a union that it fits."""
    detailed_errors: list[str] = []
    for member in get_args(hint):
        member_errors: list[str] = []
        converted = _convert(value, member, key_path, member_errors)
        if not member_errors:
            return converted
        if dataclasses.is_dataclass(member) and isinstance(value, Mapping):
            detailed_errors = member_errors
    errors.extend(detailed_errors or [f"{key_path}: expected {_describe(hint)}, found {value!r}"])
    return None


def _convert_items(value: Any, hint: Any, key_path: str, errors: list[str]) -> Any:
    """Convert a list to `tuple[X, ...]`, `tuple[X, Y]` or `list[X]`."""
    kind = get_origin(hint) or hint
    item_hints = get_args(hint) or (Any,)
    if kind is tuple and get_args(hint) and item_hints[-1] is not Ellipsis:
        if len(value) != len(item_hints):
            errors.append(f"{key_path}: expected {_describe(hint)}, found {value!r}")
            return None
    else:
        item_hints = (item_hints[0],) * len(value)
    converted = []
    for i, item in enumerate(value):
        converted.append(_convert(item, item_hints[i], f"{key_path}[{i}]", errors))
    return kind(converted)


def _describe(hint: Any) -> str:
    """Describe a type hint in words, for error messages."""
    kind = get_origin(hint) or hint
    if kind in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(hint))
    if kind is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if kind is tuple and get_args(hint)[-1:] != (Ellipsis,) and get_args(hint):
        return f"a list of {len(get_args(hint))}"
    return _TYPE_NAMES.get(kind, "a mapping")
