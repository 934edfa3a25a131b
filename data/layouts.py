"""Folders of audio: how to search them, and how published corpora arrange theirs."""

from pathlib import Path

from .utterance import Utterance

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def find_audio(folder: Path, ending: str = "") -> list[Path]:
    """All audio files below a folder, sorted; only those whose names end so, if `ending` is given.

    Raises:
        ValueError: there is none.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES and path.name.endswith(ending) and not path.name.startswith(".")
    ]
    if not files:
        raise ValueError(
            f"no audio found in {folder} or below: looked for {ending or ', '.join(AUDIO_SUFFIXES)}. Convert other "
            "formats (M4A, video) first, or check the path"
        )
    return files


def read_text(path: Path) -> str | None:
    """The words in a text file, None if there is no such file."""
    return " ".join(read_utf8(path).split()) if path.is_file() else None


def read_utf8(path: Path) -> str:
    """The content of a text file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): convert it, for example with iconv") from None


def read_libritts(folder: Path) -> list[Utterance]:
    """LibriTTS and LibriTTS-R: `[subset/]speaker/chapter/id.wav` beside `id.normalized.txt`."""
    return [
        Utterance(file.stem, file, read_text(file.with_suffix(".normalized.txt")), file.parent.parent.name)
        for file in find_audio(folder, ".wav")
    ]


def read_librispeech(folder: Path) -> list[Utterance]:
    """LibriSpeech: `[subset/]speaker/chapter/id.flac` beside `speaker-chapter.trans.txt`, an id and a text per line."""
    files = find_audio(folder, ".flac")
    texts: dict[str, str] = {}
    for path in sorted({file.with_name(f"{file.stem.rpartition('-')[0]}.trans.txt") for file in files}):
        lines = read_utf8(path).splitlines() if path.is_file() else []
        texts |= {name: text for name, _, text in (line.partition(" ") for line in lines)}
    return [Utterance(file.stem, file, texts.get(file.stem), file.parent.parent.name) for file in files]


def read_vctk(folder: Path) -> list[Utterance]:
    """VCTK 0.92, first microphone: `wav48_silence_trimmed/speaker/id_mic1.flac`, `txt/speaker/id.txt` (p315: none)."""
    corpus = []
    for file in find_audio(folder / "wav48_silence_trimmed", "_mic1.flac"):
        name, speaker = file.stem.removesuffix("_mic1"), file.parent.name
        corpus.append(Utterance(name, file, read_text(folder / "txt" / speaker / f"{name}.txt"), speaker))
    return corpus
