"""Folders of audio and text files: how to search and read them."""

from pathlib import Path

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


def listed(folder: Path) -> str:
    """The first names in a folder, to say what was found there."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
