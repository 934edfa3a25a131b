"""Item results, their JSON-lines record, and tables of them."""

import json
import subprocess
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ... import __version__
from ...data.token_store import weights_hash
from .metrics.codec import code_figures
from .metrics.words import word_counter

ItemResult = dict[str, Any]  # what is known about one sample, by key


RECORDING = "recording"


CEILING = "recording through the codec"


ENHANCED, SEPARATED = "enhanced", "separated"


def read_record(record: Path | None) -> dict[tuple[str, str, str], list[ItemResult]]:
    """Lines, one for each sound, by item, system and its key; of several such the last."""
    found: dict[tuple[str, str, str], list[ItemResult]] = {}
    if record is not None and record.exists():
        whole = [text for text in record.read_text().splitlines() if text.endswith("]")]  # a kill cuts the last
        for lines in map(json.loads, whole):
            found[lines[0]["id"], lines[0]["system"], lines[0]["fingerprint"]] = lines
    return found


def append_to_record(record: Path | None, lines: list[ItemResult]) -> None:
    """Add the lines of an item."""
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a") as file:
            file.write(json.dumps(lines) + "\n")


@lru_cache(maxsize=1)
def code_version() -> str:
    """The commit of this checkout, with a + if files differ from it; or the version that is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


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
    "num_spans_at_max": ("spans at their maximum", 2),
    "real_time_factor": ("real-time factor", 2),
    "first_sound_s": ("first sound after, s", 2),
}


def bootstrap(errors: Sequence[float], words: Sequence[float], seed: int, draws: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the sum of errors per word over items drawn with replacement."""
    e, w = np.asarray(errors), np.asarray(words)
    index = np.random.default_rng(seed).integers(len(e), size=(draws, len(e)))
    low, high = np.percentile(e[index].sum(1) / w[index].sum(1), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over items drawn with replacement."""
    return bootstrap(values, [1] * len(values), seed)


def table(lines: dict[str, list[ItemResult]], seed: int) -> str:
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
            *checkpoints_of(everything),
        ]
    )


def checkpoints_of(lines: Iterable[ItemResult]) -> list[str]:
    """What stands below a table: which model judged what, and what it stands in for."""
    judges = dict.fromkeys(pair for line in lines for pair in line.get("metrics", {}).items())
    return ["", "Judges: " + "; ".join(f"{name}: {checkpoint}" for name, checkpoint in judges) + "."] if judges else []


def row(name: str, lines: Sequence[ItemResult], columns: Iterable[str], seed: int, has_dwer: bool = False) -> str:
    """The cells of a system."""
    dwer = [rate_cell(lines, seed, "dwer_errors", "dwer_words")] if has_dwer else []
    means = [mean_cell(lines, key, COLUMNS[key][1], seed) for key in columns]
    return f"| {' | '.join([name, *word_cells(lines, seed), *dwer, *means])} |"


def word_cells(lines: Sequence[ItemResult], seed: int) -> list[str]:
    """Word error rate in % with its interval, and the share of items above 50 %; two dashes if nobody listened."""
    if not all("errors" in line for line in lines):
        return ["-", "-"]
    failed = np.mean([line["errors"] > 0.5 * line["words"] for line in lines])
    return [rate_cell(lines, seed), f"{100 * failed:.0f}"]


def rate_cell(lines: Sequence[ItemResult], seed: int, errors: str = "errors", words: str = "words") -> str:
    """Errors per word in % with their interval, by the keys of both; nothing if a line has none."""
    if not all(errors in line for line in lines):
        return ""
    e, w = ([line[key] for line in lines] for key in (errors, words))
    low, high = bootstrap(e, w, seed)
    return f"{100 * sum(e) / sum(w):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def mean_cell(lines: Iterable[ItemResult], key: str, digits: int, seed: int) -> str:
    """The mean, and its interval if not all are the same, of those lines that have it; nothing if none has."""
    lines = [line for line in lines if key in line]
    low, high = mean_interval([line[key] for line in lines], seed) if lines else (0.0, 0.0)
    return mean(lines, key, digits) + (f" ({low:.{digits}f} to {high:.{digits}f})" if low < high else "")


def mean(lines: Iterable[ItemResult], key: str, digits: int) -> str:
    """Of those lines that have it; nothing if none has."""
    values = [line[key] for line in lines if key in line]
    return f"{np.mean(values):.{digits}f}" if values else ""


def table_of_results(lines: dict[str, list[ItemResult]], seed: int) -> str:
    """The table of what was measured, with an oracle's row for each separation, and remarks."""
    separated = {name: own for name, own in lines.items() if name.startswith(SEPARATED) and "transcript" in own[0]}
    best = {f"{name}, in the order that fits the texts best": in_best_order(own) for name, own in separated.items()}
    return "\n".join([table({**lines, **best}, seed), *remarks(lines)])


def table_of_record(record: Path, weights: Sequence[nn.Module], seed: int) -> str:
    """The table of what a record holds of a model, of those that it uses, and of systems without any.

    Of systems heard on all of it: the recordings and what the codec leaves of them first, what the model makes last.

    Args:
        record: as `focallm evaluate --record` wrote it.
        weights: the model, then those that it uses.
        seed: of the intervals.

    Raises:
        ValueError: the record holds nothing of the model.
    """
    keys, known = [*map(weights_hash, weights)], read_record(record)
    if keys and keys[0] not in {key for *_, key in known}:
        raise ValueError(
            f"{record} holds {len(known)} measured sounds and none of these weights: it is of other ones, or not what "
            f"--record wrote. Measure them: focallm evaluate ... --record {record}"
        )
    lines: dict[str, list[ItemResult]] = {}
    for (_, name, key), found in known.items():
        if key in ("", *keys):
            lines.setdefault(name, []).extend(found)
    whole = max(map(len, lines.values()))
    order = sorted((name for name, own in lines.items() if len(own) == whole), key=_place)
    return table_of_results({name: lines[name] for name in order}, seed)


def _place(name: str) -> int:
    first, last = (RECORDING, CEILING), ("spoken", ENHANCED, SEPARATED)
    return first.index(name) - 2 if name in first else int(name.startswith(last))


def in_best_order(lines: Sequence[ItemResult]) -> list[ItemResult]:
    """The same answers, those of each mixture in the order whose words are right most often: an oracle, as the field
    reports it (permutation-invariant)."""
    count, best = word_counter(), list[ItemResult]()
    for name in dict.fromkeys(line["id"] for line in lines):
        own = [line for line in lines if line["id"] == name]
        texts = [line["text"] for line in own]
        orders = [
            [(line, *count(text, line["transcript"])) for text, line in zip(texts, p, strict=True)]
            for p in permutations(own)
        ]
        chosen = min(orders, key=lambda order: sum(wrong for _, wrong, _ in order))
        best += [
            {"id": name, "seconds": line["seconds"], "errors": wrong, "words": words} for line, wrong, words in chosen
        ]
    return best


def remarks(lines: dict[str, list[ItemResult]]) -> list[str]:
    """What stands below a table: how alike voices are by themselves, and how codes are used."""
    said = []
    same, other = (mean(lines.get(RECORDING, []), key, 3) for key in ("same", "other"))
    if same or other:
        said.append(
            f"Voice similarity of two recordings of one speaker: {same or 'none'}; of two speakers: {other or 'none'}."
        )
    for name, own in lines.items():
        if "codes" in own[0]:
            said.append(_use(name, own))
    return ["", *said] if said else []


def _use(name: str, lines: Sequence[ItemResult]) -> str:
    use = code_figures(lines)
    return (
        f"Codes of {name}: {use['codes_used']} of {use['codes']} ({100 * use['code_usage']:.1f} %) in {use['tokens']} "
        f"tokens, {100 * use['code_share']:.1f} % of those that even use would show; entropy {use['entropy_bits']:.2f} "
        f"bits, normalised by the codes in use {use['normalised_entropy']:.3f}."
    )
