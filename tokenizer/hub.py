"""Find the files of a model in a folder or on the Hugging Face hub, and upload such a folder."""

import difflib
import functools
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, snapshot_download
from transformers.utils import cached_file

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# The environment variable by which `focallm --trust-remote-code` reaches every process of a command.
TRUST_VARIABLE = "FOCALLM_TRUST_REMOTE_CODE"
CARD = "README.md"
PLACE = "OWNER/NAME"  # stands for the repository in a card, until one is known
_PATIENCE_S = 3  # for the first answer of the hub; its own library tries for more than a minute


def is_hub_id(source: str | Path) -> bool:
    """Return whether a source has the form owner/name of a hub id, and is nothing on this machine."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) is not None and not Path(source).exists()


def unknown_source(source: str | Path, kind: str, names: Sequence[str]) -> FileNotFoundError:
    """Return the error for a source that is neither a name nor a folder nor a hub id.

    Args:
        source: what the user named.
        kind: what it should be, such as "codec".
        names: the names that exist.
    """
    path = Path(source)
    neighbors = []
    if path.parent.is_dir():
        neighbors = [str(path.with_name(entry.name)) for entry in path.parent.iterdir() if entry.is_dir()]
    close = difflib.get_close_matches(str(source), [*names, *neighbors], n=1)
    question = f"; did you mean {close[0]}?" if close else "."
    return FileNotFoundError(
        f"there is no {kind} {str(source)!r}{question} Name one of {', '.join(names)}, a folder, or a model of the hub "
        "as owner/name"
    )


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options of `from_pretrained` that say how to download.

    If the hub does not answer, they say to use its cache only: its library would otherwise try again for a minute, for
    each file.
    """
    selected = {key: options[key] for key in HUB_ARGUMENTS if key in options}
    if not selected.get("local_files_only") and not _hub_answers(int(time.monotonic() // 60)):
        selected["local_files_only"] = True
    return selected


@functools.lru_cache(maxsize=1)
def _hub_answers(minute: int) -> bool:
    """Ask the hub whether it is there; the answer holds for a minute, the argument."""
    if constants.HF_HUB_OFFLINE:
        return False
    answers = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S))
        except Exception:  # of several libraries; whatever it is, there is no answer
            return

    # In a thread, because no timeout covers the search for the address.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return bool(answers)


def find_file(source: str | Path, name: str, options: dict[str, Any]) -> Path | None:
    """Return the path of a file in a folder or hub id, or None if there is no file of that name.

    Args:
        source: folder or hub id.
        name: of the file.
        options: of `from_pretrained`.

    Raises:
        OSError: There is no such folder or hub id, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        path = Path(source, options.get("subfolder", ""), name)
        return path if path.is_file() else None
    if not is_hub_id(source):
        raise FileNotFoundError(f"{source} is neither a folder nor a hub id (owner/name): check the spelling")
    download = hub_options(options)
    with _explained(source):
        if download.get("local_files_only"):
            # Whether a file exists can only be asked of the hub. A repository in the cache has the files that it needs.
            _snapshot(source, download)
        found = cached_file(
            str(source),
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not download.get("local_files_only"),
            **download,
        )
    return None if found is None else Path(found)


def find_folder(source: str | Path, patterns: Sequence[str], options: dict[str, Any]) -> Path:
    """Return a folder, or that to which the files of a hub id are downloaded.

    Args:
        source: folder or hub id.
        patterns: of the names of files to download.
        options: of `from_pretrained`.

    Raises:
        OSError: There is no such folder or hub id, or the hub cannot be reached.
    """
    if not is_hub_id(source):
        return Path(source)
    with _explained(source):
        return _snapshot(source, hub_options(options), allow_patterns=list(patterns))


def _snapshot(source: str | Path, options: dict[str, Any], **more: Any) -> Path:
    known = {key: options[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in options}
    return Path(snapshot_download(str(source), **known, **more))


@contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    """Turn the errors of the hub's library into one line each."""
    try:
        yield
    # The library uses errors of its own and of the library for HTTP.
    except Exception as error:
        reason = f"the hub does not give it ({' '.join(str(error).split())[:200]})"
        if constants.HF_HUB_OFFLINE:
            reason = "with HF_HUB_OFFLINE only the cache is searched, which does not hold it"
        elif not _hub_answers(int(time.monotonic() // 60)):
            reason = f"{constants.ENDPOINT} cannot be reached and has left nothing in the cache"
        raise OSError(
            f"{source} is no folder here, and {reason}. Check the spelling and the connection, or download it "
            f"elsewhere (hf download {source} --local-dir FOLDER) and name the folder"
        ) from None


def trusts_remote_code(options: dict[str, Any]) -> bool:
    """Return whether Python code in the folder of a model may be run: only if the user said so."""
    return bool(options.get("trust_remote_code", os.environ.get(TRUST_VARIABLE) == "1"))


@contextmanager
def remote_code_explained(source: str | Path) -> Iterator[None]:
    """Say how to allow it where transformers refuses to run code that comes with a model."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{source} needs Python code that comes with it (auto_map in its configuration), and such code is not run: "
            "read it, and if you trust its authors, add --trust-remote-code (in Python: trust_remote_code=True)"
        ) from None


def push_folder(save: Callable[[Path], None], repo: str, **kwargs: Any) -> str:
    """Upload what a function saves to the hub, to a new repository if there is none of that name.

    Args:
        save: writes the files into a folder.
        repo: `"owner/name"`.
        kwargs: `token`, `private`; `commit_message`, `revision`, `create_pr` as in `HfApi.upload_folder`.

    Returns:
        The URL of the commit.
    """
    api = HfApi(token=kwargs.pop("token", None))
    api.create_repo(repo, private=kwargs.pop("private", None), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        card = Path(folder, CARD)
        if card.is_file():
            card.write_text(card.read_text(encoding="utf-8").replace(PLACE, repo), encoding="utf-8")
        return str(api.upload_folder(repo_id=repo, folder_path=folder, **kwargs))
