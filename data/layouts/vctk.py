"""VCTK 0.92 (doi.org/10.7488/ds/2645)."""

from pathlib import Path

from ..utterance import Utterance
from .files import find_audio, read_text


def read_vctk(folder: Path) -> list[Utterance]:
    """First microphone: `wav48_silence_trimmed/speaker/id_mic1.flac`, `txt/speaker/id.txt` (p315: none)."""
    corpus = []
    for file in find_audio(folder / "wav48_silence_trimmed", "_mic1.flac"):
        name, speaker = file.stem.removesuffix("_mic1"), file.parent.name
        corpus.append(Utterance(name, file, read_text(folder / "txt" / speaker / f"{name}.txt"), speaker))
    return corpus
