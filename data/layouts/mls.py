"""Multilingual LibriSpeech (openslr.org/94)."""

from pathlib import Path

from ..utterance import Utterance
from .files import find_audio, read_utf8


def read_mls(folder: Path) -> list[Utterance]:
    """`mls_german[_opus]/subset/audio/speaker/book/id.flac` (or `.opus`), `mls_german/subset/transcripts.txt`.

    The folder is a subset, a language or holds several; `extra` has the `language`, such as "german".

    Raises:
        ValueError: no such folders below, or a line of a `transcripts.txt` that is not an id, a tab and a text.
    """
    transcripts = sorted(folder.rglob("transcripts.txt"))
    if not transcripts:
        raise ValueError(
            f"no transcripts.txt in {folder} or below: an MLS corpus is mls_LANGUAGE/{{train,dev,test}}/, each with "
            "transcripts.txt and audio/"
        )
    corpus = []
    for path in transcripts:
        extra, texts = {"language": _language(path)}, _read_transcripts(path)
        corpus += [
            Utterance(file.stem, file, texts.get(file.stem), file.parent.parent.name, extra=extra)
            for file in find_audio(path.parent / "audio")
        ]
    return corpus


def _read_transcripts(path: Path) -> dict[str, str]:
    """Texts by id."""
    texts = {}
    for number, line in enumerate(read_utf8(path).splitlines(), start=1):
        name, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number} must be an id, a tab and a text, found {line[:60]!r}")
        texts[name] = text.strip()
    return texts


def _language(transcripts: Path) -> str:
    name = transcripts.resolve().parents[1].name
    if not name.startswith("mls_"):
        raise ValueError(f"{transcripts} must be at mls_LANGUAGE/subset/transcripts.txt, found the folder {name!r}")
    return name.split("_")[1]
