"""A codec between the recordings themselves and classical codecs: words, quality, voice and codes, item by item.

Each measurement is a line of a record and is not made again, so that a table costs nothing once its items are heard.
T samples.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.plan import weights_hash
from ..data.utterance import Utterance
from ..tokenizer import AudioTokenizer
from ..tokenizer.training.validation import code_use
from .classical import CODECS, through_classical
from .evaluation import bootstrap, choose, load_recogniser, mel_distance, read_with_texts, through_codec
from .metrics import load_quality, load_similarity, word_counter

QUALITY_ITEMS = 30  # DNSMOS takes longer than everything else together
RECORDING = "recording"
Line = dict[str, Any]


@dataclass(frozen=True)
class System:
    """What a recording goes through: (T,) at `rate` -> the same again, and facts about the codes."""

    name: str
    key: str  # says whether a line of the record is of the same system
    through: Callable[[np.ndarray, int], tuple[np.ndarray, Line]]


class Scorers:
    """Judges of speech, loaded when the first item needs them.

    Args:
        whisper: folder of a Whisper model for faster-whisper.
    """

    def __init__(self, whisper: str) -> None:
        self.whisper = whisper

    recognise = cached_property(lambda self: load_recogniser(self.whisper))
    count = cached_property(lambda self: word_counter())
    quality = cached_property(lambda self: load_quality())
    voice = cached_property(lambda self: load_similarity())


def evaluate_codec(data: Path, model: str, limit: int, whisper: str, seed: int, record: Path | None) -> str:
    """-> a heading and the table of `compare`, with all classical codecs; see `focallm evaluate --help`.

    Raises:
        ValueError: recordings without transcripts.
        ImportError: a scorer or the program of a classical codec is missing.
    """
    items = choose(read_with_texts(data), limit, seed)
    heading = f"{model} on {data.name}, scorer {Path(whisper).name}"
    return f"{heading}\n\n{compare(items, model, Scorers(whisper), seed, tuple(CODECS), record)}"


def compare(
    items: Sequence[Utterance], model: str, scorers: Scorers, seed: int, classical: Sequence[str], record: Path | None
) -> str:
    """-> a Markdown table of recordings, the codec and classical codecs.

    Args:
        items: recordings with transcripts, of one or several speakers.
        model: "mini", a folder or a hub id.
        scorers: who judges.
        seed: of the intervals.
        classical: names of `classical.CODECS`.
        record: JSON lines, read if they are there and added to.
    """
    tokenizer = AudioTokenizer.from_pretrained(model)
    systems = [
        System(RECORDING, "", lambda audio, rate: (audio, {})),
        System(model, weights_hash(tokenizer.codec), lambda audio, rate: _decoded(tokenizer, audio)),
        *(System(name, "", _classical(name)) for name in classical),
    ]
    known = _read(record)
    lines: dict[str, list[Line]] = {}
    for system in systems:
        for i, item in enumerate(items):
            line = known.get((item.id, system.name, system.key))
            if line is None:
                line = {"id": item.id, "system": system.name, "key": system.key}
                line |= _measure(items, i, system, scorers, tokenizer.sampling_rate)
                _append(record, line)
            lines.setdefault(system.name, []).append(line)
    return table(lines, tokenizer.codebook_size, seed)


def _measure(items: Sequence[Utterance], i: int, system: System, scorers: Scorers, rate: int) -> Line:
    audio, _ = items[i].read(rate)
    again, facts = system.through(audio, rate)
    wrong, words = scorers.count(items[i].text or "", scorers.recognise(again, rate))
    line = {"errors": wrong, "words": words, "seconds": len(audio) / rate, **facts}
    if i < QUALITY_ITEMS:
        line["quality"] = scorers.quality(again, rate)
    own = scorers.voice(audio, rate)
    if system.name == RECORDING:
        for kind, other in _others(items, i).items():
            line[kind] = float(own @ scorers.voice(*other.read(rate)))
    else:
        line["similarity"] = float(own @ scorers.voice(again, rate))
        line["mel"] = mel_distance(audio, again, rate)
    return line


def _others(items: Sequence[Utterance], i: int) -> dict[str, Utterance]:
    """The next recordings of the same speaker and of another one: what similarities are to be seen beside."""
    after = [*items[i + 1 :], *items[:i]]
    same = next((item for item in after if item.speaker == items[i].speaker), None)
    other = next((item for item in after if item.speaker != items[i].speaker), None)
    return {kind: item for kind, item in (("same", same), ("other", other)) if item is not None}


def _decoded(tokenizer: AudioTokenizer, audio: np.ndarray) -> tuple[np.ndarray, Line]:
    ids, again = through_codec(tokenizer, audio)
    return again, {"bit_rate": tokenizer.bits_per_second, "codes": ids.tolist()}


def _classical(name: str) -> Callable[[np.ndarray, int], tuple[np.ndarray, Line]]:
    def through(audio: np.ndarray, rate: int) -> tuple[np.ndarray, Line]:
        again, bit_rate = through_classical(name, audio, rate)
        return again, {"bit_rate": CODECS[name][2], "measured_bit_rate": bit_rate}

    return through


def table_of_record(record: Path, tokenizer: AudioTokenizer, seed: int) -> str:
    """The table of what a record holds of the recordings and of those codecs that were heard on all of them."""
    own = weights_hash(tokenizer.codec)
    lines: dict[str, list[Line]] = {}
    for (_, name, key), line in _read(record).items():
        if key in ("", own):
            lines.setdefault(name, []).append(line)
    whole = len(lines[RECORDING])
    return table({name: own for name, own in lines.items() if len(own) == whole}, tokenizer.codebook_size, seed)


def table(lines: dict[str, list[Line]], codebook_size: int, seed: int) -> str:
    """Markdown from the lines of every system."""
    first = lines[RECORDING]
    rows = [
        f"n = {len(first)}, {sum(line['seconds'] for line in first) / 60:.1f} minutes; DNSMOS of the first "
        f"{sum('quality' in line for line in first)}; seed {seed}",
        "",
        "| | bit/s | word error rate, % (95 % interval) | items above 50 % | DNSMOS overall | voice similarity |"
        " mel distance |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [_row(name, own, seed) for name, own in lines.items()]
    rows += ["", _voices(first)]
    rows += [_use(name, own, codebook_size) for name, own in lines.items() if "codes" in own[0]]
    return "\n".join(rows)


def _row(name: str, lines: Sequence[Line], seed: int) -> str:
    errors, words = ([line[key] for line in lines] for key in ("errors", "words"))
    low, high = bootstrap(errors, words, seed)
    failed = np.mean([e > 0.5 * w for e, w in zip(errors, words, strict=True)])
    cells = [
        name,
        f"{lines[0]['bit_rate']:.0f}" if "bit_rate" in lines[0] else "",
        f"{100 * sum(errors) / sum(words):.1f} ({100 * low:.1f} to {100 * high:.1f})",
        f"{100 * failed:.0f}",
        *(_mean(lines, key, digits) for key, digits in (("quality", 2), ("similarity", 3), ("mel", 3))),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(lines: Iterable[Line], key: str, digits: int) -> str:
    values = [line[key] for line in lines if key in line]
    return f"{np.mean(values):.{digits}f}" if values else ""


def _voices(lines: Sequence[Line]) -> str:
    same, other = (_mean(lines, key, 3) for key in ("same", "other"))
    return f"Voice similarity of two recordings of one speaker: {same or 'none'}; of two speakers: {other or 'none'}."


def _use(name: str, lines: Sequence[Line], codebook_size: int) -> str:
    use = code_use(torch.tensor([code for line in lines for code in line["codes"]]), codebook_size)
    used = f"{use['codes_used']:.0f} of {codebook_size} ({100 * use['codes_used'] / codebook_size:.1f} %)"
    return (
        f"Codes of {name}: {used} in {use['tokens']:.0f} tokens, {100 * use['code_share']:.1f} % of those that even "
        f"use would show; entropy {use['entropy_bits']:.2f} bits, normalised by the codes in use "
        f"{use['normalised_entropy']:.3f}."
    )


def _read(record: Path | None) -> dict[tuple[str, str, str], Line]:
    if record is None or not record.exists():
        return {}
    lines = [json.loads(line) for line in record.read_text().splitlines() if line.endswith("}")]  # a kill cuts the last
    return {(line["id"], line["system"], line["key"]): line for line in lines}


def _append(record: Path | None, line: Line) -> None:
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a") as file:
            file.write(json.dumps(line) + "\n")
