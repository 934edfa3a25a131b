"""IEMOCAP (sail.usc.edu/iemocap): acted dialogues of ten speakers, each turn with the emotion that is heard in it."""

import re
from pathlib import Path

from ..utterance import Utterance
from .files import listed, read_utf8

# Those that the paper's authors classify. Excited (exc) is not counted as happy: their code leaves it out, too.
EMOTIONS = ("ang", "hap", "neu", "sad")
_LABEL = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(\w+)\s+(\w+)\s+\[.*\]")
_TEXT = re.compile(r"(\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")


def read_iemocap(folder: Path) -> list[Utterance]:
    """`Session1/sentences/wav/dialogue/id.wav`, `Session1/dialog/{EmoEvaluation,transcriptions}/dialogue.txt`.

    The folder holds the sessions, or is one. Turns of the four emotions above; `extra` has `emotion`, `session` (1 to
    5) and `gender` ("F", "M").

    Raises:
        ValueError: no sessions, or a label that cannot be parsed.
    """
    folder = folder.resolve()
    sessions = [folder] if folder.name.startswith("Session") else sorted(folder.glob("Session?"))
    labels = [path for session in sessions for path in sorted(session.glob("dialog/EmoEvaluation/Ses*.txt"))]
    if not labels:
        raise ValueError(
            f"no Session1/dialog/EmoEvaluation/Ses*.txt in {folder}, which has {listed(folder)}: name the folder of "
            "IEMOCAP that holds Session1 to Session5"
        )
    return [utterance for path in labels for utterance in _read_dialogue(path)]


def _read_dialogue(labels: Path) -> list[Utterance]:
    session, dialogue = labels.parents[2], labels.stem
    spoken = session / "dialog" / "transcriptions" / labels.name
    texts = dict(_TEXT.findall(read_utf8(spoken))) if spoken.is_file() else {}
    corpus = []
    for number, line in enumerate(read_utf8(labels).splitlines(), start=1):
        if not line.startswith("["):
            continue  # a heading, or what one of the judges said
        found = _LABEL.match(line)
        if found is None:
            raise ValueError(
                f"{labels}, line {number} must be [start - end], an id, an emotion and [valence, activation, "
                f"dominance], with tabs between, found {line[:60]!r}"
            )
        name, emotion = found.groups()
        if emotion in EMOTIONS:
            gender = name.rpartition("_")[2][0]
            extra = {"emotion": emotion, "session": int(session.name[-1]), "gender": gender}
            audio = session / "sentences" / "wav" / dialogue / f"{name}.wav"
            corpus.append(Utterance(name, audio, texts.get(name), f"{name[:5]}{gender}", extra=extra))
    return corpus
