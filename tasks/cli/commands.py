"""The program `focallm`: finds a command, parses its arguments and prints what it returns.

Each command is one function of `inference`, `training`, `evaluation` or `serving`; its signature is its options. Heavy
libraries are imported inside these functions, so that `focallm --help` does not wait for torch.
"""

import io
import logging
import os
import sys
from collections.abc import Callable

from focallm import __version__

from . import evaluation, export, inference, serving, training
from .parser import parse_arguments, split_docstring, unknown_message

COMMANDS: dict[str, Callable[..., str | None]] = {
    **inference.COMMANDS,
    **training.COMMANDS,
    **evaluation.COMMANDS,
    **export.COMMANDS,
    **serving.COMMANDS,
}

# An option of every command, see `tokenizer.hub.trusts_remote_code`.
_TRUST = "--trust-remote-code"


def main() -> None:
    """Run the command that the command line names. This is the only place that decides which errors are the user's.

    Raises:
        SystemExit: With status 2 for a wrong command line, with status 130 after Ctrl-C, and with status 1 and one line
            for any other mistake of the user.
    """
    # A name of a file need not be UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run(sys.argv[1:] or ["--help"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        # 128 and the number of the signal, as shells have it.
        print("focallm: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The program that reads the output, such as head, has seen enough. Python would write into it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except MemoryError as error:
        sys.exit(f"focallm: out of memory ({error}): use shorter recordings or smaller batches")
    # The user can fix a wrong value, a missing file or a missing extra. Any other error is a bug and keeps its
    # traceback.
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"focallm: {error}")


def _run(words: list[str]) -> None:
    """Run a command, given the words of the command line."""
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
    arguments = parse_arguments(function, command, [word for word in words[1:] if word != _TRUST])
    if _TRUST in words:
        # A variable also reaches the processes that a command starts.
        os.environ["FOCALLM_TRUST_REMOTE_CODE"] = "1"
    show_progress_as_lines()
    result = function(**arguments)
    if result:
        print(result)


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
        "  --trust-remote-code",
        "               After a command: run Python code that comes with a model, where it needs some.",
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
