"""Run systems on the items of a corpus, and measure what they produce. T samples."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...data.corpus import read_corpus
from ...data.utterance import Utterance
from ...tokenizer.files import printable
from .metrics.metric import UNDEFINED, EvalSample, Metric
from .results import ItemResult, append_to_record, code_version, read_record

logger = logging.getLogger(__name__)

_BATCH_ITEMS = 8  # items that are measured and recorded at once


@dataclass(frozen=True)
class System:
    """One row of a table: something that produces audio for each item.

    Args:
        name: Name of its row.
        fingerprint: Hash of its weights, which decides whether a result in a record is of the same system; "" without
            weights.
        make: Index of an item -> its samples, one for each speaker.
    """

    name: str
    fingerprint: str
    make: Callable[[int], list[EvalSample]]


def read_with_texts(data: Path, layout: str | None = None) -> list[Utterance]:
    """Read the utterances of a corpus that have a transcript for every speaker.

    Raises:
        ValueError: There are none.
    """
    items = []
    for item in read_corpus(data, layout=layout):
        speakers = item.sources or (item,)
        if all(speaker.text for speaker in speakers):
            items.append(item)
    if not items:
        raise ValueError(
            f"{data} has no transcripts, but evaluation needs a text for each recording. Add the column text to the "
            "manifest of the corpus, or name the layout of a published corpus with --layout"
        )
    return items


def choose_items(
    items: list[Utterance], limit: int, seed: int, read: Callable[[Utterance], Any] = Utterance.read
) -> list[Utterance]:
    """Choose items by the seed, and leave out and log those whose audio cannot be read.

    Args:
        items: All items.
        limit: How many to choose, 0 for all.
        seed: Seed of the choice.
        read: Reads or mixes the audio of an item.

    Returns:
        The chosen items in their order.

    Raises:
        ValueError: None of the chosen items can be read.
    """
    if limit < 0:
        raise ValueError(f"limit is a number of items, or 0 for all of them, found {limit}")
    chosen = items
    if 0 < limit < len(items):
        indices = np.random.default_rng(seed).choice(len(items), limit, replace=False)
        chosen = [items[i] for i in sorted(indices)]
    readable = []
    for item in chosen:
        try:
            read(item)
            readable.append(item)
        except (OSError, ValueError, MemoryError) as error:
            logger.warning("left out %s: %s", item.id, printable(str(error) or type(error).__name__))
    if not readable:
        raise ValueError(f"none of the {len(chosen)} recordings to evaluate can be read: check the corpus")
    if len(readable) < len(chosen):
        logger.warning("%d of %d recordings cannot be read and are left out", len(chosen) - len(readable), len(chosen))
    return readable


def evaluate_systems(
    systems: Sequence[System],
    ids: Sequence[str],
    metrics: Sequence[Metric],
    seed: int = 0,
    record: Path | None = None,
    progress: bool = False,
) -> dict[str, list[ItemResult]]:
    """Measure every item of every system.

    Results of the record are used again if they have the same seed and no metric has another checkpoint now. Metrics
    that such a result lacks are added to it.

    Args:
        systems: What to evaluate.
        ids: Ids of the items.
        metrics: As from `load_scorers`.
        seed: Seed that the systems were made with.
        record: JSON-lines file, read if it exists and appended to.
        progress: Show a progress bar.

    Returns:
        The results of each system, by its name, in the order of the items; one result for each speaker.

    Raises:
        ImportError: A package that a metric needs is not installed.
    """
    checkpoints = {metric.name: metric.checkpoint for metric in metrics}
    known = {}
    for key, recorded in read_record(record).items():
        if _is_reusable(recorded[0], checkpoints, seed):
            known[key] = recorded

    results: dict[str, list[ItemResult]] = {}
    for system in systems:
        by_item: list[list[ItemResult]] = []
        for item_id in ids:
            by_item.append(known.get((item_id, system.name, system.fingerprint), []))
        with tqdm(total=len(ids), desc=system.name, unit="item", disable=not progress) as bar:
            for start in range(0, len(ids), _BATCH_ITEMS):
                batch = by_item[start : start + _BATCH_ITEMS]
                for i, item_results in _evaluate_batch(system, start, batch, metrics).items():
                    identity = {"id": ids[i], "system": system.name, "fingerprint": system.fingerprint, "seed": seed}
                    by_item[i] = []
                    for result in item_results:
                        by_item[i].append(_complete(identity, result))
                    # Each batch is recorded at once, so that a killed evaluation loses one batch at most.
                    append_to_record(record, by_item[i])
                bar.update(len(batch))
        results[system.name] = list(chain.from_iterable(by_item))
    return results


def _is_reusable(result: ItemResult, checkpoints: dict[str, str], seed: int) -> bool:
    """Return whether a recorded result has this seed and was measured with the checkpoints of today."""
    if result["seed"] != seed:
        return False
    return all(checkpoints.get(name, checkpoint) == checkpoint for name, checkpoint in result["metrics"].items())


def _evaluate_batch(
    system: System, start: int, batch: Sequence[list[ItemResult]], metrics: Sequence[Metric]
) -> dict[int, list[ItemResult]]:
    """Make the samples of a batch and measure what is missing.

    Args:
        system: What makes the samples.
        start: Index of the first item of the batch.
        batch: Known results of each item, one for each speaker; empty if there are none.
        metrics: All metrics.

    Returns:
        Index of an item -> its results, only of the items that were measured now.
    """
    missing: dict[int, list[Metric]] = {}
    samples: dict[int, list[EvalSample]] = {}
    results: dict[int, list[ItemResult]] = {}
    for i, known in enumerate(batch, start):
        missing[i] = _missing_metrics(i, known, metrics)
        if known and not missing[i]:
            continue
        # Audio is not recorded, so a further metric needs the samples again.
        samples[i] = system.make(i)
        before = known or [{"metrics": {}}] * len(samples[i])
        results[i] = []
        for result, sample in zip(before, samples[i], strict=True):
            duration = {"seconds": len(sample.audio) / sample.rate}
            results[i].append({**result, **duration, "text": sample.text, **sample.facts})

    # A metric gets the samples of all items at once, because large batches are faster.
    for metric in metrics:
        metric_samples: list[EvalSample] = []
        metric_results: list[ItemResult] = []
        for i in samples:
            if metric in missing[i]:
                metric_samples += samples[i]
                metric_results += results[i]
        for result, scores in zip(metric_results, metric(metric_samples), strict=True):
            undefined = [*result.get(UNDEFINED, []), *scores.get(UNDEFINED, [])]
            result.update(scores)
            if undefined:
                result[UNDEFINED] = undefined
            result["metrics"] = {**result["metrics"], metric.name: metric.checkpoint}
    return results


def _missing_metrics(i: int, known: list[ItemResult], metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that item `i` still needs."""
    # All speakers of an item were measured together, so the first result stands for all.
    measured = known[0]["metrics"] if known else {}
    missing = []
    for metric in metrics:
        within_limit = not metric.limit or i < metric.limit
        if within_limit and metric.name not in measured:
            missing.append(metric)
    return missing


def _complete(identity: ItemResult, result: ItemResult) -> ItemResult:
    """Add to a result its identity, the code version, and a hash of the metrics' checkpoints."""
    config = hashlib.sha256(json.dumps(result["metrics"], sort_keys=True).encode()).hexdigest()[:12]
    return {**identity, **result, "commit": code_version(), "config": config}
