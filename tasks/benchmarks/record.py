"""How the benchmarks measure, and the form of their results: JSON to keep, a Markdown table to read.

Two ways of doing the same work are run in turn, in one process, so that other load on the machine slows both. The
result is a ratio: how many times as long the other way takes. Seconds alone say little, because machines and their load
differ.
"""

import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...tokenizer.files import write_whole

_PACKAGES = ("focallm", "torch", "transformers")


@dataclass(frozen=True)
class Row:
    """One comparison. The ratio is `against_seconds / seconds` of each repeat: above 1, ours is faster."""

    case: str  # what was done, such as "encode, 8 x 10 s"
    seconds: float  # of ours, median
    against: str  # what it is compared with, such as "one by one"
    against_seconds: float  # median
    ratio: float  # median
    ratio_low: float  # first quartile
    ratio_high: float  # third quartile


def take_turns(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Time two calls in turn, after a warm-up of each.

    Args:
        ours: first call.
        theirs: second call.
        repeats: number of times that each is timed.

    Returns:
        The seconds of each repeat, of ours and of theirs.
    """
    ours()
    theirs()
    our_seconds = []
    their_seconds = []
    for i in range(repeats):
        # The order changes with every repeat, because a call may profit from what the one before left in the cache.
        if i % 2 == 0:
            our_seconds.append(_time(ours))
            their_seconds.append(_time(theirs))
        else:
            their_seconds.append(_time(theirs))
            our_seconds.append(_time(ours))
    return our_seconds, their_seconds


def make_row(case: str, our_seconds: Sequence[float], against: str, their_seconds: Sequence[float]) -> Row:
    """Make the row of one comparison.

    Args:
        case: what was done.
        our_seconds: of each repeat.
        against: what it is compared with.
        their_seconds: of the same repeats.

    Returns:
        Medians of both, and the median and quartiles of the ratios of the repeats.
    """
    ratios = [theirs / ours for ours, theirs in zip(our_seconds, their_seconds, strict=True)]
    low = high = ratios[0]
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Row(
        case=case,
        seconds=statistics.median(our_seconds),
        against=against,
        against_seconds=statistics.median(their_seconds),
        ratio=statistics.median(ratios),
        ratio_low=low,
        ratio_high=high,
    )


def make_record(title: str, threads: int, rows: Sequence[Row], **others: Any) -> dict[str, Any]:
    """Describe a benchmark with all that its figures depend on.

    Args:
        title: one line that says what was measured, with which model.
        threads: CPU threads.
        rows: the comparisons.
        others: further results that JSON can hold.

    Returns:
        A dictionary with the versions, the machine, the date, the title, the rows and the other results.
    """
    record: dict[str, Any] = {package: version(package) for package in _PACKAGES}
    record["python"] = platform.python_version()
    record["machine"] = f"{_cpu_model()}, {os.cpu_count()} cores"
    record["threads"] = threads
    record["date"] = datetime.now(UTC).date().isoformat()
    record["title"] = title
    record["rows"] = [dataclasses.asdict(row) for row in rows]
    return record | others


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON. The path may not be that of a folder."""
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def markdown_table(record: dict[str, Any]) -> str:
    """Render the rows of a record as a Markdown table, below a line that says where they were measured."""
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    lines = [
        f"{record['title']}. {record['machine']}, {threads}, torch {record['torch']}, transformers "
        f"{record['transformers']}.",
        "",
        "| | seconds | against | seconds | ratio (quartiles) |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        cells = [
            row["case"],
            f"{row['seconds']:.3g}",
            row["against"],
            f"{row['against_seconds']:.3g}",
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    # Only the codec has these.
    if "memory" in record:
        lines += ["", "| peak memory above the loaded model | MB |", "|---|---|"]
        for entry in record["memory"]:
            lines.append(f"| {entry['case']} | {entry['megabytes']:.0f} |")
    return "\n".join(lines)


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cpu_model() -> str:
    # Only Linux has this file; `platform` knows no more than the architecture there.
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
