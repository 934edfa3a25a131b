"""The program `focallm`: finds a command, parses its arguments and prints what it returns.

Each command is one function of `inference`, `training` or `evaluation`; its signature is its options. Heavy libraries
are imported inside these functions, so that `focallm --help` does not wait for torch.
"""

import io
import logging
import os
import sys
from collections.abc import Callable

from focallm import __version__

from . import evaluation, inference, training
from .parser import parse_arguments, split_docstring, unknown_message

COMMANDS: dict[str, Callable[..., str | None]] = {
    **inference.COMMANDS,
    **training.COMMANDS,
    **evaluation.COMMANDS,
}


def main() -> None:
    """Run the command that the command line names.

    Raises:
        SystemExit: With status 2 for a wrong command line, and with status 1 and one line for any other mistake of the
            user.
    """
    # A name of a file need not be UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] or ["--help"]
    command = words[0]
    if command in ("-h", "--help"):
        print(help_text())
        return
    if command == "--version":
        print(f"focallm {__version__}")
        return
    if command not in COMMANDS:
        explanation = unknown_message("command", command, [*COMMANDS, "--help", "--version"])
        print(f"focallm: {explanation} (see focallm --help)", file=sys.stderr)
        sys.exit(2)

    function = COMMANDS[command]
    arguments = parse_arguments(function, command, words[1:])
    try:
        show_progress_as_lines()
        message = function(**arguments)
        if message:
            print(message)
    # The user can fix a wrong value, a missing file or a missing extra. Any other error is a bug and keeps its
    # traceback.
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"focallm: {error}")


def help_text() -> str:
    """Return the text of `focallm --help`: every command with the first line of its docstring."""
    lines = [
        "usage: focallm COMMAND [ARGUMENTS]",
        "",
        "Speech language modeling on codec tokens.",
        "",
        "commands:",
    ]
    for name, function in COMMANDS.items():
        summary, _ = split_docstring(function.__doc__ or "")
        lines.append(f"  {name:12} {summary.splitlines()[0]}")
    lines += [
        "",
        "options:",
        "  --help       Show this text; after a command, explain its arguments.",
        "  --version    Show the version.",
    ]
    return "\n".join(lines)


def show_progress_as_lines() -> None:
    """Log as plain lines, and leave progress bars to the commands."""
    # datasets reads this variable when it is imported. It shows bars for reading and sorting rows, even with --quiet.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    # transformers takes a second to import, which `focallm --help` should not wait for.
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("focallm").setLevel(logging.INFO)
    # These libraries have handlers of their own, beside which the root logger would print each line a second time.
    for library in ("huggingface_hub", "datasets"):
        logging.getLogger(library).propagate = False
    # transformers shows a bar for each model that it loads, even for small ones.
    transformers_logging.disable_progress_bar()
