"""Item results, their JSON-lines record, and the tables made from them."""

import math
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from focallm import __version__

from ...data.token_store import weights_hash
from ...tokenizer.cards import escape
from ...tokenizer.json_lines import append_json_line, read_json_lines
from ...tokenizer.runs import locked
from .metrics.codec import code_figures
from .metrics.metric import UNDEFINED
from .metrics.words import counts_characters, word_counter

# Everything known about one sample (one speaker of one item), by name. "id", "system", "fingerprint" and "seed" say
# which one, "seconds" and "text" describe it. "metrics" maps metrics to checkpoints, "config" is a hash of that,
# and "commit" is the code version. All other values are scores of the metrics and facts of the system.
ItemResult = dict[str, Any]

# Names of rows.
RECORDING = "recording"
CEILING = "recording through the codec"
SPOKEN = "spoken"
ENHANCED = "enhanced"
SEPARATED = "separated"

# Score -> heading of its column, and digits of its mean. Word error rates have separate columns.
COLUMNS = {
    "bit_rate": ("bit/s", 0),
    "utmos": ("UTMOS", 2),
    "p808": ("DNSMOS P.808", 2),
    "quality": ("DNSMOS overall", 2),
    "distillmos": ("DistillMOS", 2),
    "similarity": ("voice similarity", 3),
    "pesq": ("PESQ", 2),
    "stoi": ("STOI", 3),
    "si_sdr": ("SI-SDR, dB", 1),
    "stft": ("STFT distance", 3),
    "mel": ("mel distance", 3),
    "duration": ("duration relative to the recording", 2),
    "stopped_at_max": ("stopped at the maximum length", 2),
    "num_spans_at_max": ("spans at their maximum length", 2),
    "real_time_factor": ("real-time factor", 2),
    "time_to_first_audio_s": ("time to first audio, s", 2),
}

# Number of errors -> number of words or phonemes, and heading of their rate. The word error rate has its own columns.
RATES = {
    "dwer_errors": ("dwer_words", "dWER, %"),
    "phoneme_errors": ("phonemes", "phonemes wrong, %"),
}


def read_record(record: Path | None) -> dict[tuple[str, str, str], list[ItemResult]]:
    """Read a record.

    Args:
        record: JSON-lines file with one list of results for each item of a system. None or a missing file is empty.

    Returns:
        The results (one for each speaker) by item id, system name and fingerprint; of repeated ones the last.

    Raises:
        ValueError: A line is damaged, or an older version of focallm wrote the record.
    """
    results: dict[tuple[str, str, str], list[ItemResult]] = {}
    if record is None or not record.exists():
        return results
    for number, item_results in read_json_lines(record, appended=True):
        if not isinstance(item_results, list) or not item_results or not isinstance(item_results[0], dict):
            raise ValueError(
                f"{record}, line {number} is not a list of results: focallm evaluate --record did not write it. Delete "
                "this line, or name another file"
            )
        first = item_results[0]
        missing = {"id", "system", "fingerprint", "metrics"} - set(first)
        if missing:
            raise ValueError(
                f"{record}, line {number} is without {', '.join(sorted(missing))}: an older version of focallm wrote "
                "it. Evaluate again with --record and a new file"
            )
        results[first["id"], first["system"], first["fingerprint"]] = item_results
    return results


def lock_record(record: Path | None) -> AbstractContextManager[None]:
    """Let no other process add to a record within this context: it would measure the same items again.

    Args:
        record: JSON-lines file. None locks nothing.
    """
    if record is None:
        return nullcontext()
    return locked(record, record.with_name(f".{record.name}.lock"))


def append_to_record(record: Path | None, item_results: list[ItemResult]) -> None:
    """Append the results of an item to a record, if there is one."""
    if record is not None:
        append_json_line(record, item_results)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the commit of this checkout, with a + if files differ from it; or the installed version."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__

    def git(*arguments: str) -> str:
        process = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
        return process.stdout.strip()

    is_changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if is_changed else "")


def bootstrap(errors: Sequence[float], words: Sequence[float], seed: int, draws: int = 1000) -> tuple[float, float]:
    """Compute the 95 % percentile interval of sum(errors) / sum(words) over items drawn with replacement.

    It is NaN if no item has words.
    """
    error_counts = np.asarray(errors)
    word_counts = np.asarray(words)
    num_items = len(error_counts)
    index = np.random.default_rng(seed).integers(num_items, size=(draws, num_items))
    # A ratio of sums, so that a long text counts more than a short one.
    error_sums = error_counts[index].sum(1)
    word_sums = word_counts[index].sum(1)
    # A draw without words has no rate.
    rates = error_sums[word_sums > 0] / word_sums[word_sums > 0]
    if len(rates) == 0:
        return math.nan, math.nan
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Compute the 95 % percentile interval of the mean over items drawn with replacement."""
    return bootstrap(values, [1] * len(values), seed)


def table_of_results(results: dict[str, list[ItemResult]], seed: int) -> str:
    """Make the table of an evaluation, with an oracle's row for each separation, and the remarks below it.

    Args:
        results: Results of each system, by its name.
        seed: Seed of the confidence intervals.
    """
    rows = dict(results)
    for name, system_results in results.items():
        if name.startswith(SEPARATED) and all("transcript" in result for result in system_results):
            rows[f"{name}, best permutation (oracle)"] = best_permutation(system_results)
    return "\n".join([table(rows, seed), *remarks(results)])


def table_of_record(record: Path, weights: Sequence[nn.Module], seed: int) -> str:
    """Make the table of a record, with the systems of a model, of its parts, and those without weights.

    Only systems with results for all items are shown: the recordings and the codec ceiling first, the model last.

    Args:
        record: As `focallm evaluate --record` wrote it.
        weights: The model, then its parts, such as its codec.
        seed: Seed of the confidence intervals.

    Raises:
        ValueError: The record holds no results of the model.
    """
    fingerprints = [weights_hash(module) for module in weights]
    recorded = read_record(record)
    results: dict[str, list[ItemResult]] = {}
    holds_model = False
    for (_, name, fingerprint), item_results in recorded.items():
        # Systems without weights, such as the recordings, have the fingerprint "".
        if fingerprint in ("", *fingerprints):
            results.setdefault(name, []).extend(item_results)
        holds_model = holds_model or fingerprint == fingerprints[0]
    if not holds_model:
        raise ValueError(
            f"{record} holds {len(recorded)} results, but none of these weights: other weights were evaluated, or "
            f"--record did not write this file. Evaluate them: focallm evaluate ... --record {record}"
        )
    num_results = max(map(len, results.values()))
    complete = {}
    for name in sorted(results, key=_row_order):
        if len(results[name]) == num_results:
            complete[name] = results[name]
    return table_of_results(complete, seed)


def _row_order(name: str) -> int:
    """Sort recordings and the codec ceiling first, models last."""
    if name == RECORDING:
        return 0
    if name == CEILING:
        return 1
    return 3 if name.startswith((SPOKEN, ENHANCED, SEPARATED)) else 2


def table(results: dict[str, list[ItemResult]], seed: int) -> str:
    """Make a Markdown table with a row for each system and a column for each score, and name the checkpoints below.

    Args:
        results: Results of each system, by its name.
        seed: Seed of the confidence intervals.
    """
    all_results = list(chain.from_iterable(results.values()))
    measured = set(chain.from_iterable(all_results))
    columns = [key for key in COLUMNS if key in measured]
    rates = [key for key in RATES if key in measured]

    # In some scripts the words of a text are its characters.
    unit = "character" if any(counts_characters(result.get("text", "")) for result in all_results) else "word"
    headings = ["", f"{unit} error rate, % (95 % interval)", "items above 50 %, %"]
    for key in rates:
        _, heading = RATES[key]
        headings.append(heading)
    for key in columns:
        heading, _ = COLUMNS[key]
        headings.append(heading)
    lines = [_cells(headings), "|" + "---|" * len(headings)]
    for name, system_results in results.items():
        cells = [escape(name), *word_cells(system_results, seed)]
        for key in rates:
            total, _ = RATES[key]
            cells.append(rate_cell(system_results, seed, key, total))
        for key in columns:
            _, digits = COLUMNS[key]
            cells.append(mean_cell(system_results, key, digits, seed))
        lines.append(_cells(cells))

    first = next(iter(results.values()))
    minutes = sum(_values(first, "seconds")) / 60
    caption = f"n = {len(first)}, {minutes:.1f} minutes"
    # DNSMOS may be limited to the first items.
    num_dnsmos = len(_values(first, "quality"))
    if num_dnsmos:
        caption += f"; DNSMOS of the first {num_dnsmos}"
    below = [*undefined_scores(results), *_checkpoints(all_results)]
    return "\n".join([f"{caption}; seed {seed}", "", *lines, *below])


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def undefined_scores(results: dict[str, list[ItemResult]]) -> list[str]:
    """Return the lines below a table that count the results whose scores are undefined.

    Args:
        results: Results of each system, by its name.
    """
    names = {"errors": "error rate", "dwer_errors": "dWER", "phoneme_errors": "phonemes"}
    totals = {"errors": "words", **{key: total for key, (total, _) in RATES.items()}}
    lines = []
    for system, system_results in results.items():
        counts: Counter[str] = Counter()
        for result in system_results:
            counts.update(result.get(UNDEFINED, []))
            # A reference without words has no rate of its own, though words that were heard count as errors.
            for key, total in totals.items():
                counts[key] += result.get(total) == 0
        parts = []
        for key, count in counts.items():
            if count > 0:
                heading, _ = COLUMNS.get(key, (names.get(key, key), 0))
                parts.append(f"{heading} of {count}")
        if parts:
            lines.append(f"Undefined in {escape(system)}, and left out of the means: {', '.join(parts)}.")
    return ["", *lines] if lines else []


def _checkpoints(results: Iterable[ItemResult]) -> list[str]:
    """Return the lines below a table that name the checkpoint of each metric, and what it stands in for."""
    names: dict[str, None] = {}  # an ordered set
    for result in results:
        for metric, checkpoint in result.get("metrics", {}).items():
            names[escape(f"{metric}: {checkpoint}")] = None
    return ["", f"Metrics: {'; '.join(names)}."] if names else []


def word_cells(results: Sequence[ItemResult], seed: int) -> list[str]:
    """Return word error rate and catastrophic failure rate, the share of items above 50 %, both in %.

    Without words both are "-".
    """
    errors = np.asarray(_values(results, "errors"))
    words = np.asarray(_values(results, "words"))
    # Items without words have no rate.
    is_failed = errors[words > 0] > 0.5 * words[words > 0]
    if len(is_failed) == 0:
        return ["-", "-"]
    return [rate_cell(results, seed), f"{100 * np.mean(is_failed):.0f}"]


def rate_cell(results: Sequence[ItemResult], seed: int, errors: str = "errors", words: str = "words") -> str:
    """Return an error rate in % with its interval, of the results that have it; "" if there are no words.

    Args:
        results: Results of a system.
        seed: Seed of the interval.
        errors: Key of the number of errors.
        words: Key of the number of words.
    """
    error_counts = _values(results, errors)
    word_counts = _values(results, words)
    if sum(word_counts) == 0:
        return ""
    low, high = bootstrap(error_counts, word_counts, seed)
    return f"{100 * sum(error_counts) / sum(word_counts):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def mean_cell(results: Iterable[ItemResult], key: str, digits: int, seed: int) -> str:
    """Return the mean of the results that have a score, with its interval unless all are equal; "" if none has it."""
    values = _values(results, key)
    if not values:
        return ""
    cell = fixed(np.mean(values), digits)
    low, high = mean_interval(values, seed)
    # Constants such as a bit rate have no interval.
    if low < high:
        cell += f" ({fixed(low, digits)} to {fixed(high, digits)})"
    return cell


def fixed(value: float, digits: int) -> str:
    """Format a number with some decimals; 0.00 has no sign."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


def _values(results: Iterable[ItemResult], key: str) -> list[Any]:
    """Return the values of a score, of the results that have it."""
    return [result[key] for result in results if key in result]


def best_permutation(results: Sequence[ItemResult]) -> list[ItemResult]:
    """Assign the outputs of each mixture to the speakers so that the fewest words are wrong.

    This is an oracle, since it looks at the texts. Papers report it as permutation-invariant evaluation.
    """
    # Records of older versions do not name the language.
    count = word_counter(results[0].get("language", "en"))
    by_item: dict[str, list[ItemResult]] = {}
    for result in results:
        by_item.setdefault(result["id"], []).append(result)

    best: list[ItemResult] = []
    for item_id, outputs in by_item.items():
        candidates: list[list[ItemResult]] = []
        for order in permutations(outputs):
            candidate: list[ItemResult] = []
            for speaker, output in zip(outputs, order, strict=True):
                errors, words = count(speaker["text"], output["transcript"])
                candidate.append({"id": item_id, "seconds": output["seconds"], "errors": errors, "words": words})
            candidates.append(candidate)
        fewest_errors = min(candidates, key=_num_errors)
        best += fewest_errors
    return best


def _num_errors(results: Sequence[ItemResult]) -> int:
    return sum(_values(results, "errors"))


def remarks(results: dict[str, list[ItemResult]]) -> list[str]:
    """Return the lines below a table about the voices of the recordings and the codes of the codecs."""
    lines = []
    recorded = results.get(RECORDING, [])
    same = _values(recorded, "same")
    other = _values(recorded, "other")
    if same or other:
        same_mean = f"{np.mean(same):.3f}" if same else "none"
        other_mean = f"{np.mean(other):.3f}" if other else "none"
        lines.append(f"Voice similarity of two recordings of one speaker: {same_mean}; of two speakers: {other_mean}.")
    for name, system_results in results.items():
        with_codes = [result for result in system_results if result.get("codes")]
        if with_codes:
            lines.append(_code_remark(name, with_codes))
    return ["", *lines] if lines else []


def _code_remark(name: str, results: Sequence[ItemResult]) -> str:
    figures = code_figures(results)
    return (
        f"Codes of {name}: {figures['codes_used']} of {figures['codes']} ({100 * figures['code_usage']:.1f} %) in "
        f"{figures['tokens']} tokens, {100 * figures['code_share']:.1f} % of the number expected under uniform use; "
        f"entropy {figures['entropy_bits']:.2f} bits, normalized by the codes in use "
        f"{figures['normalised_entropy']:.3f}."
    )
