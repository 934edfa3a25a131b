"""Speech judged item by item, and tables of it. T samples.

Each item is a line of a record and is not judged again, so that a table costs nothing once its items are heard.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..tokenizer.focalcodec.mel import log_mel
from .metrics import load_quality, load_recogniser, load_similarity, word_counter

QUALITY_ITEMS = 30  # DNSMOS takes longer than everything else together
RECORDING = "recording"
Line = dict[str, Any]

# key of a line -> heading of its column, and digits of the mean; beside the word errors, which have an interval.
COLUMNS = {
    "bit_rate": ("bit/s", 0),
    "quality": ("DNSMOS overall", 2),
    "similarity": ("voice similarity", 3),
    "mel": ("mel distance", 3),
    "duration": ("duration, of the recording's", 2),
    "unfinished": ("without an end", 2),
    "real_time_factor": ("real-time factor", 2),
    "first_sound_s": ("first sound after, s", 2),
}


@dataclass(frozen=True)
class Sound:
    """What is judged.

    Args:
        audio: (T,) at `rate` Hz.
        text: what it is to say.
        target: (T,) at the same rate, what it is to sound like.
        voice: (T,) at the same rate, a recording of the voice that it is to have.
        facts: what else its line is to hold.
    """

    audio: np.ndarray
    rate: int
    text: str
    target: np.ndarray | None = None
    voice: np.ndarray | None = None
    facts: Line = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """What makes sounds, one or several (of talkers) from each item.

    Args:
        name: of its row.
        key: says whether a line of the record is of the same system, as a hash of its weights.
        make: from the number of an item.
    """

    name: str
    key: str
    make: Callable[[int], list[Sound]]


class Scorers:
    """Judges of speech, loaded when the first item needs them.

    Args:
        whisper: folder of a Whisper model for faster-whisper; without one, words are not counted.
        full: judge quality and voice, too.
    """

    def __init__(self, whisper: str | None, full: bool = False) -> None:
        self.whisper, self.full = whisper, full

    recognise = cached_property(lambda self: _once(load_recogniser(self.whisper)) if self.whisper else None)
    voice = cached_property(lambda self: _once(load_similarity()))
    count = cached_property(lambda self: word_counter())
    quality = cached_property(lambda self: load_quality())


def _once(listen: Callable[[np.ndarray, int], Any]) -> Callable[[np.ndarray, int], Any]:
    """The same audio is not listened to again: mixtures are judged once for each talker."""
    known: dict[str, Any] = {}

    def answer(audio: np.ndarray, rate: int) -> Any:
        key = hashlib.sha256(audio.tobytes()).hexdigest()
        if key not in known:
            known[key] = listen(audio, rate)
        return known[key]

    return answer


def judge(
    systems: Sequence[System], ids: Sequence[str], scorers: Any, record: Path | None = None, progress: bool = False
) -> dict[str, list[Line]]:
    """-> the lines of every system, by its name

    Args:
        ids: of the items.
        scorers: `Scorers`, or what hears as they do.
        record: JSON lines, read if they are there and added to.
        progress: show a bar.
    """
    known = read_record(record)
    found: dict[str, list[Line]] = {system.name: [] for system in systems}
    for system in systems:
        for i, name in enumerate(tqdm(ids, desc=system.name, unit="item", disable=not progress)):
            lines = known.get((name, system.name, system.key))
            if lines is None:
                about = {"id": name, "system": system.name, "key": system.key}
                lines = [about | _judge(sound, scorers, i < QUALITY_ITEMS) for sound in system.make(i)]
                _append(record, lines)
            found[system.name] += lines
    return found


def _judge(sound: Sound, scorers: Any, quality: bool) -> Line:
    line = {"seconds": len(sound.audio) / sound.rate, "text": sound.text, **sound.facts}
    if sound.target is not None:
        line["mel"] = mel_distance(sound.target, sound.audio, sound.rate)
    if scorers.recognise:
        line["heard"] = scorers.recognise(sound.audio, sound.rate)
        line["errors"], line["words"] = scorers.count(sound.text, line["heard"])
    if scorers.full and quality:
        line["quality"] = scorers.quality(sound.audio, sound.rate)
    if scorers.full and sound.voice is not None:
        line["similarity"] = float(scorers.voice(sound.voice, sound.rate) @ scorers.voice(sound.audio, sound.rate))
    return line


def mel_distance(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    """Mean absolute difference of two (T,) log-mel spectrograms, in nats of magnitude; what one lasts longer is cut."""
    size = min(len(a), len(b))
    x, y = (log_mel(torch.from_numpy(wave[:size])[None].float(), rate, 1024, 320, 80) for wave in (a, b))
    return float((x - y).abs().mean())


def bootstrap(errors: Sequence[int], words: Sequence[int], seed: int, draws: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the word error rate over items drawn with replacement."""
    e, w = np.asarray(errors), np.asarray(words)
    index = np.random.default_rng(seed).integers(len(e), size=(draws, len(e)))
    low, high = np.percentile(e[index].sum(1) / w[index].sum(1), [2.5, 97.5])
    return float(low), float(high)


def table(lines: dict[str, list[Line]], seed: int) -> str:
    """Markdown: a row for every system, a column for whatever was measured."""
    everything = [line for own in lines.values() for line in own]
    columns = [key for key in COLUMNS if any(key in line for line in everything)]
    first = next(iter(lines.values()))
    headings = ["", "word error rate, % (95 % interval)", "items above 50 %", *(COLUMNS[key][0] for key in columns)]
    heard = sum("quality" in line for line in first)
    about = f"n = {len(first)}, {sum(line['seconds'] for line in first) / 60:.1f} minutes"
    return "\n".join(
        [
            f"{about}{f'; DNSMOS of the first {heard}' if heard else ''}; seed {seed}",
            "",
            f"| {' | '.join(headings)} |",
            f"|{'---|' * len(headings)}",
            *(row(name, own, columns, seed) for name, own in lines.items()),
        ]
    )


def row(name: str, lines: Sequence[Line], columns: Iterable[str], seed: int) -> str:
    """The cells of a system."""
    cells = [name, *word_cells(lines, seed), *(mean(lines, key, COLUMNS[key][1]) for key in columns)]
    return f"| {' | '.join(cells)} |"


def word_cells(lines: Sequence[Line], seed: int) -> list[str]:
    """`word_rates` as they are shown; two dashes if nobody listened."""
    rates = word_rates(lines, seed)
    if rates is None:
        return ["-", "-"]
    rate, low, high, failed = rates
    return [f"{rate:.1f} ({low:.1f} to {high:.1f})", f"{failed:.0f}"]


def word_rates(lines: Sequence[Line], seed: int) -> tuple[float, float, float, float] | None:
    """Word error rate, the ends of its interval, the share of items above 50 %, all in %; None if nobody listened."""
    if not all("errors" in line for line in lines):
        return None
    errors, words = ([line[key] for line in lines] for key in ("errors", "words"))
    low, high = bootstrap(errors, words, seed)
    failed = np.mean([e > 0.5 * w for e, w in zip(errors, words, strict=True)])
    return 100 * sum(errors) / sum(words), 100 * low, 100 * high, float(100 * failed)


def mean(lines: Iterable[Line], key: str, digits: int) -> str:
    """Of those lines that have it; nothing if none has."""
    values = [line[key] for line in lines if key in line]
    return f"{np.mean(values):.{digits}f}" if values else ""


def read_record(record: Path | None) -> dict[tuple[str, str, str], list[Line]]:
    """Lines by item, system and its key."""
    found: dict[tuple[str, str, str], list[Line]] = {}
    if record is not None and record.exists():
        whole = [text for text in record.read_text().splitlines() if text.endswith("]")]  # a kill cuts the last
        for lines in map(json.loads, whole):
            found[lines[0]["id"], lines[0]["system"], lines[0]["key"]] = lines
    return found


def _append(record: Path | None, lines: list[Line]) -> None:
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a") as file:
            file.write(json.dumps(lines) + "\n")
