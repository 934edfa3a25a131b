"""Command-line options from the signature and the docstring of a function.

A parameter without a default is a positional argument. Any other is an option: `top_p: float = 0.9` is `--top-p FLOAT`,
`quiet: bool = False` is `--quiet` and `--no-quiet`, `data: list[Path] | None = None` is `--data PATH [PATH ...]`. A
keyword-only parameter without a default is a required option. A list without a default, `models: list[str]`, is any
number of positional arguments.
"""

import argparse
import difflib
import inspect
import itertools
import json
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

# Parameters that name what a command writes.
_OUTPUTS = ("out", "store", "run", "record")
_METAVARS: dict[Any, str] = {Path: "PATH", str: "TEXT", int: "INT", float: "FLOAT"}


def parse_arguments(function: Callable[..., Any], command: str, words: Sequence[str]) -> dict[str, Any]:
    """Parse the words that follow a command.

    Args:
        function: The function that the command calls.
        command: The name of the command.
        words: Words of the command line.

    Returns:
        The keyword arguments of the function.

    Raises:
        SystemExit: With status 0 for `--help`, and with status 2 for a wrong command line.
    """
    summary, descriptions = split_docstring(function.__doc__ or "")
    parser = _Parser(prog=f"focallm {command}", description=summary, allow_abbrev=False)
    hints = get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        _add_argument(parser, parameter, hints[parameter.name], descriptions[parameter.name])
    # argparse would complain of a missing argument first, and does not name the options that exist.
    options = parser.option_names()
    flags = parser.flags()
    for word in itertools.takewhile(lambda word: word != "--", words):
        name, equals, value = word.partition("=")
        if re.fullmatch(r"--?[A-Za-z][\w-]*", name) and name not in ["-h", *options]:
            parser.error(unknown_message("option", word, options))
        if equals and name in flags:
            parser.error(f"{name} takes no value, found {value!r}")
    values, unknown = parser.parse_known_args(words)
    if unknown:
        before = words[words.index(unknown[0]) - 1]
        if before in flags:
            parser.error(f"{before} takes no value, found {unknown[0]!r}")
        parser.error(f"unexpected argument {unknown[0]!r}; put a text with spaces in quotes")
    for name in _OUTPUTS:
        path = getattr(values, name, None)
        if path is not None:
            _check_output(parser, name, path)
    return vars(values)


def split_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into the text before `Args:` and a description for each argument."""
    text, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    descriptions: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        # Four spaces start an argument, more continue it, fewer start the next section.
        if not line.startswith("    "):
            break
        if line.startswith("     "):
            descriptions[name] += " " + line.strip()
        else:
            name, _, description = line.strip().partition(": ")
            descriptions[name] = description
    return text.strip(), descriptions


def unknown_message(kind: str, word: str, known: Sequence[str]) -> str:
    """Describe an unknown word with the known one that is closest, or else with all of them."""
    # With a lower cutoff, --foo would be taken for a misspelled --out.
    close = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.7)
    if close:
        return f"unknown {kind} {word!r}; did you mean {close[0]}?"
    return f"unknown {kind} {word!r}; expected one of {', '.join(known)}"


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"focallm: {message} (see {self.prog} --help)\n")

    def option_names(self) -> list[str]:
        """Return all options."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def flags(self) -> list[str]:
        """Return the options without a value."""
        return [name for name, action in self._option_string_actions.items() if action.nargs == 0]


def _add_argument(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: Any, description: str) -> None:
    # argparse formats the help text with the operator %.
    settings: dict[str, Any] = {"help": description.replace("%", "%%")}
    kind = _without_none(hint)
    if kind is bool:
        # This action adds --no-NAME.
        settings["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
    elif get_origin(kind) is dict:
        settings.update(type=_json_object, metavar="JSON")
    elif get_origin(kind) is list:
        item = get_args(kind)[0]
        settings.update(type=item, metavar=_METAVARS[item], nargs="+")
    else:
        settings.update(type=kind, metavar=_METAVARS[kind])

    option = f"--{parameter.name.replace('_', '-')}"
    if parameter.default is not inspect.Parameter.empty:
        if parameter.default is not None and kind is not bool:
            settings["help"] += " (default: %(default)s)"
        parser.add_argument(option, default=parameter.default, **settings)
    elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        parser.add_argument(option, required=True, **settings)
    else:
        # For a positional argument, the name says more than the type, but less than a list of choices.
        if "choices" not in settings:
            settings["metavar"] = parameter.name.upper()
        if settings.get("nargs") == "+":
            settings["nargs"] = "*"
        parser.add_argument(parameter.name, **settings)


def _check_output(parser: _Parser, name: str, path: Path) -> None:
    """Refuse a path that lacks more than the last folder: it is probably misspelled.

    That is the folder of a file or of a run, or else the path itself.
    """
    folder = path.parent if path.suffix or name == "run" else path
    if not folder.exists() and not folder.parent.exists():
        parser.error(
            f"argument {name}: {path} cannot be written, because there is no folder {folder.parent}: check the "
            "spelling, or create it first"
        )


def _without_none(hint: Any) -> Any:
    """`X | None` -> `X`; None only says that an option may be absent."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def _json_object(text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'expected JSON such as \'{{"text": "sentence"}}\', found {text!r}')
    return value
