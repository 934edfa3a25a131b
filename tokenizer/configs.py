"""Read JSON and YAML that someone else may have made or damaged, and turn it into configuration dataclasses.

Every error names the file, and none takes long to find.
"""

import dataclasses
import json
import math
import re
import reprlib
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

ConfigT = TypeVar("ConfigT")

# Files of descriptions are small; a larger one was never a description, and reading it would take seconds.
_MAX_BYTES = 1 << 25
_MAX_DEPTH = 32  # of lists and mappings inside each other
_MAX_ENTRIES = 1 << 20  # of all lists and mappings together; aliases of YAML make many out of a few bytes

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

_repr = reprlib.Repr()
_repr.maxstring = 80
_repr.maxother = 80
_repr.maxlist = 12
_repr.maxtuple = 12


def brief(value: Any) -> str:
    """Show a value of any size in an error message."""
    return _repr.repr(value)


@contextmanager
def errors_named(path: Path | str) -> Iterator[None]:
    """Name a file in every error of the statements that read it.

    Files that others made can fail anywhere in a library. Whatever it raises becomes a ValueError here, except for an
    OSError or a ValueError that already names the file.

    Args:
        path: of the file or folder.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if str(path) in str(error):
            raise
        raise (OSError if isinstance(error, OSError) else ValueError)(f"{path}: {_one_line(error)}") from error
    except (MemoryError, ImportError):
        raise
    except BaseException as error:
        # The tokenizers library is written in Rust, whose panics are no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"{path} cannot be read: {type(error).__name__}, {_one_line(error)}. It is damaged or was made by another "
            "program"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def read_json(path: Path | str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        OSError: The file does not exist.
        ValueError: The file does not hold an object, is too large or nested too deeply, or has a number that is not
            finite.
    """
    content = parse_file(path, json.loads, "JSON")
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(content).__name__}: fetch the file again")
    return content


def parse_file(path: Path | str, parse: Callable[[str], Any], kind: str) -> Any:
    """Read a text file, and check what a parser makes of it; see `read_json`.

    Args:
        path: of the file.
        parse: makes lists, mappings and numbers of the text.
        kind: name of the format, for error messages.
    """
    size = Path(path).stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {_MAX_BYTES}: it is no description")
    try:
        content = parse(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: it is no description") from None
    except OSError:
        raise
    # The parser of YAML has errors of many classes.
    except Exception as error:
        raise ValueError(f"{path} is not {kind} ({error}): restore the file, or fetch it again") from None
    fault = _find_fault(content)
    if fault:
        raise ValueError(f"{path}: {fault}")
    return content


def _find_fault(content: Any) -> str | None:
    """Describe the first number that is not finite, or the first entry that is too deep or one too many."""
    pending = [("", content, 0)]
    num_entries = 0
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name or 'the content'} must be a finite number, found {value}"
        if not isinstance(value, Mapping | list):
            continue
        num_entries += len(value)
        if depth == _MAX_DEPTH or num_entries > _MAX_ENTRIES:
            return f"{name} is nested too deeply, or the file has too many entries: it is no description"
        for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            # Text cannot be at fault, and a lexicon is a long list of it.
            if not isinstance(child, str):
                pending.append((f"{name}.{key}" if name else str(key), child, depth + 1))
    return None


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does. PyYAML follows YAML 1.1, which requires 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> Any:
    """Read a YAML file.

    Raises:
        OSError: The file does not exist.
        ValueError: The file is not YAML, or as in `read_json`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no YAML file {path}: check the path")
    return parse_file(path, lambda text: yaml.load(text, _Loader), "YAML")


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


def check_keys(values: Mapping[str, Any], hints: Mapping[str, Any], name: str) -> None:
    """Check that a mapping has some keys, whose values have the right types; it may have others.

    Args:
        values: the mapping.
        hints: type hints, as `load_config` understands them, by key.
        name: what error messages call the mapping.

    Raises:
        ValueError: A key is missing, or a value has another type.
    """
    errors: list[str] = []
    missing = [key for key in hints if key not in values]
    if missing:
        errors.append(f"missing keys {missing}")
    for key in hints.keys() - set(missing):
        _convert(values[key], hints[key], key, errors)
    if errors:
        raise ValueError(f"{name}: {'; '.join(sorted(errors))}: the file is damaged, or of another version")


def _build_dataclass(cls: Any, values: Any, key_path: str, errors: list[str]) -> Any:
    """Return an instance of a dataclass, or None after adding to `errors`. `key_path` is the path of keys to it."""
    prefix = f"{key_path}: " if key_path else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    if not isinstance(values, Mapping):
        errors.append(f"{prefix}expected a mapping with keys of {', '.join(fields)}; found {brief(values)}")
        return None
    num_errors = len(errors)
    unknown = [key for key in values if key not in fields]
    if unknown:
        errors.append(f"{prefix}unknown keys {brief(unknown)}; known keys: {', '.join(fields)}")
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
    if isinstance(value, float) and not math.isfinite(value):
        errors.append(f"{key_path}: expected a finite number, found {value}")
        return None
    # Types are compared exactly because bool is a subclass of int.
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    if kind is Literal and value in get_args(hint):
        return value
    errors.append(f"{key_path}: expected {_describe(hint)}, found {brief(value)}")
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
    errors.extend(detailed_errors or [f"{key_path}: expected {_describe(hint)}, found {brief(value)}"])
    return None


def _convert_items(value: Any, hint: Any, key_path: str, errors: list[str]) -> Any:
    """Convert a list to `tuple[X, ...]`, `tuple[X, Y]` or `list[X]`."""
    kind = get_origin(hint) or hint
    item_hints = get_args(hint) or (Any,)
    if kind is tuple and get_args(hint) and item_hints[-1] is not Ellipsis:
        if len(value) != len(item_hints):
            errors.append(f"{key_path}: expected {_describe(hint)}, found {brief(value)}")
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
