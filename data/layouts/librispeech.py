"""LibriSpeech (openslr.org/12) and LibriTTS (openslr.org/60, 141)."""

from collections.abc import Iterable
from pathlib import Path

from ..utterance import Utterance
from .files import find_audio, read_text, read_utf8


def read_libritts(folder: Path) -> list[Utterance]:
    """LibriTTS and LibriTTS-R: `[subset/]speaker/chapter/id.wav` beside `id.normalized.txt`."""
    return [
        Utterance(file.stem, file, read_text(file.with_suffix(".normalized.txt")), file.parent.parent.name)
        for file in find_audio(folder, ".wav")
    ]


def read_librispeech(folder: Path) -> list[Utterance]:
    """`[subset/]speaker/chapter/id.flac` beside `speaker-chapter.trans.txt`, an id and a text per line."""
    files = find_audio(folder, ".flac")
    texts = read_transcripts({file.with_name(f"{file.stem.rpartition('-')[0]}.trans.txt") for file in files})
    return [Utterance(file.stem, file, texts.get(file.stem), file.parent.parent.name) for file in files]


def read_transcripts(paths: Iterable[Path]) -> dict[str, str]:
    """Texts by id, of those `speaker-chapter.trans.txt` that exist."""
    lines = [line for path in paths if path.is_file() for line in read_utf8(path).splitlines()]
    return {name: text for name, _, text in (line.partition(" ") for line in lines)}
