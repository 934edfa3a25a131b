"""Speech judged item by item, and tables of it. T samples.

Each item is a line of a record and is not judged again, so that a table costs nothing once its items are heard.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .metrics import Line, Metric, Sound
from .record import append_to_record, code_version, read_record

RECORDING = "recording"
_BATCH = 8  # items that are judged together

# key of a line -> heading of its column, and digits of the mean; beside the word errors.
COLUMNS = {
    "bit_rate": ("bit/s", 0),
    "utmos": ("UTMOS", 2),
    "p808": ("DNSMOS P.808", 2),
    "quality": ("DNSMOS overall", 2),
    "similarity": ("voice similarity", 3),
    "pesq": ("PESQ", 2),
    "stoi": ("STOI", 3),
    "si_sdr": ("SI-SDR, dB", 1),
    "stft": ("STFT distance", 3),
    "mel": ("mel distance", 3),
    "duration": ("duration, of the recording's", 2),
    "unfinished": ("without an end", 2),
    "real_time_factor": ("real-time factor", 2),
    "first_sound_s": ("first sound after, s", 2),
}


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


def judge(
    systems: Sequence[System],
    ids: Sequence[str],
    metrics: Sequence[Metric],
    seed: int = 0,
    record: Path | None = None,
    progress: bool = False,
) -> dict[str, list[Line]]:
    """-> the lines of every system, by its name, in the order of the items

    A line holds the `id` of its item, `system`, `key`, `seed` and `commit` of the code, the facts of its sound, what
    was measured of it, `judges`, the checkpoints of the metrics by their names, and `config`, a hash of them. A line of
    a record is taken if none of its judges has another checkpoint now; metrics that it lacks are added.

    Args:
        ids: of the items.
        metrics: as `load_scorers` gives them.
        seed: that the systems were made with.
        record: JSON lines, read if they are there and added to.
        progress: show a bar.

    Raises:
        ImportError: what a metric needs is not installed.
    """
    judges = {metric.name: metric.checkpoint for metric in metrics}
    known = {place: lines for place, lines in read_record(record).items() if _agrees(lines[0], judges, seed)}
    found: dict[str, list[Line]] = {}
    for system in systems:
        own = {i: known.get((name, system.name, system.key), []) for i, name in enumerate(ids)}
        with tqdm(total=len(ids), desc=system.name, unit="item", disable=not progress) as bar:
            for start in range(0, len(ids), _BATCH):
                batch = {i: own[i] for i in range(start, min(start + _BATCH, len(ids)))}
                for i, lines in _judge_batch(system, batch, metrics).items():
                    about = {"id": ids[i], "system": system.name, "key": system.key, "seed": seed}
                    own[i] = [{**about, **line, "commit": code_version(), "config": _config(line)} for line in lines]
                    append_to_record(record, own[i])
                bar.update(len(batch))
        found[system.name] = [line for lines in own.values() for line in lines]
    return found


def _agrees(line: Line, judges: dict[str, str], seed: int) -> bool:
    """Whether a line is of this seed, and nobody who judged it has become another. Lines of old name no judges."""
    if "judges" not in line or line["seed"] != seed:
        return False
    return all(judges.get(name, checkpoint) == checkpoint for name, checkpoint in line["judges"].items())


def _judge_batch(system: System, batch: dict[int, list[Line]], metrics: Sequence[Metric]) -> dict[int, list[Line]]:
    """Items and what is known of them -> the lines of those that are judged now, by more metrics"""
    missing = {i: _missing(i, lines, metrics) for i, lines in batch.items()}
    sounds = {i: system.make(i) for i, lines in batch.items() if missing[i] or not lines}
    judged = {i: [_facts(sound) for sound in made] for i, made in sounds.items()}
    for i, lines in judged.items():
        judged[i] = [{**old, **new} for old, new in zip(batch[i] or [{"judges": {}}] * len(lines), lines, strict=True)]
    for metric in metrics:
        asked = [i for i in sounds if metric in missing[i]]
        measured = metric([sound for i in asked for sound in sounds[i]])
        for line, values in zip((line for i in asked for line in judged[i]), measured, strict=True):
            line.update(values, judges={**line["judges"], metric.name: metric.checkpoint})
    return judged


def _missing(i: int, lines: list[Line], metrics: Sequence[Metric]) -> list[Metric]:
    """Those metrics that have yet to judge an item."""
    judges = lines[0]["judges"] if lines else {}
    return [metric for metric in metrics if metric.name not in judges and (not metric.limit or i < metric.limit)]


def _facts(sound: Sound) -> Line:
    return {"seconds": len(sound.audio) / sound.rate, "text": sound.text, **sound.facts}


def _config(line: Line) -> str:
    return hashlib.sha256(json.dumps(line["judges"], sort_keys=True).encode()).hexdigest()[:12]


def bootstrap(errors: Sequence[float], words: Sequence[float], seed: int, draws: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the sum of errors per word over items drawn with replacement."""
    e, w = np.asarray(errors), np.asarray(words)
    index = np.random.default_rng(seed).integers(len(e), size=(draws, len(e)))
    low, high = np.percentile(e[index].sum(1) / w[index].sum(1), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over items drawn with replacement."""
    return bootstrap(values, [1] * len(values), seed)


def table(lines: dict[str, list[Line]], seed: int) -> str:
    """Markdown: a row for every system, a column for whatever was measured, and who judged."""
    everything = [line for own in lines.values() for line in own]
    columns = [key for key in COLUMNS if any(key in line for line in everything)]
    has_dwer = any("dwer_errors" in line for line in everything)
    first = next(iter(lines.values()))
    headings = ["", "word error rate, % (95 % interval)", "items above 50 %"]
    headings += [*(["dWER, %"] if has_dwer else []), *(COLUMNS[key][0] for key in columns)]
    heard = sum("quality" in line for line in first)
    about = f"n = {len(first)}, {sum(line['seconds'] for line in first) / 60:.1f} minutes"
    return "\n".join(
        [
            f"{about}{f'; DNSMOS of the first {heard}' if heard else ''}; seed {seed}",
            "",
            f"| {' | '.join(headings)} |",
            f"|{'---|' * len(headings)}",
            *(row(name, own, columns, seed, has_dwer) for name, own in lines.items()),
            *judges_of(everything),
        ]
    )


def judges_of(lines: Iterable[Line]) -> list[str]:
    """What stands below a table: which model judged what, and what it stands in for."""
    judges = dict.fromkeys(pair for line in lines for pair in line.get("judges", {}).items())
    return ["", "Judges: " + "; ".join(f"{name}: {checkpoint}" for name, checkpoint in judges) + "."] if judges else []


def row(name: str, lines: Sequence[Line], columns: Iterable[str], seed: int, has_dwer: bool = False) -> str:
    """The cells of a system."""
    dwer = [rate_cell(lines, seed, "dwer_errors", "dwer_words")] if has_dwer else []
    means = [mean_cell(lines, key, COLUMNS[key][1], seed) for key in columns]
    return f"| {' | '.join([name, *word_cells(lines, seed), *dwer, *means])} |"


def word_cells(lines: Sequence[Line], seed: int) -> list[str]:
    """Word error rate in % with its interval, and the share of items above 50 %; two dashes if nobody listened."""
    if not all("errors" in line for line in lines):
        return ["-", "-"]
    failed = np.mean([line["errors"] > 0.5 * line["words"] for line in lines])
    return [rate_cell(lines, seed), f"{100 * failed:.0f}"]


def rate_cell(lines: Sequence[Line], seed: int, errors: str = "errors", words: str = "words") -> str:
    """Errors per word in % with their interval, by the keys of both; nothing if a line has none."""
    if not all(errors in line for line in lines):
        return ""
    e, w = ([line[key] for line in lines] for key in (errors, words))
    low, high = bootstrap(e, w, seed)
    return f"{100 * sum(e) / sum(w):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def mean_cell(lines: Iterable[Line], key: str, digits: int, seed: int) -> str:
    """The mean, and its interval if not all are the same, of those lines that have it; nothing if none has."""
    lines = [line for line in lines if key in line]
    low, high = mean_interval([line[key] for line in lines], seed) if lines else (0.0, 0.0)
    return mean(lines, key, digits) + (f" ({low:.{digits}f} to {high:.{digits}f})" if low < high else "")


def mean(lines: Iterable[Line], key: str, digits: int) -> str:
    """Of those lines that have it; nothing if none has."""
    values = [line[key] for line in lines if key in line]
    return f"{np.mean(values):.{digits}f}" if values else ""
