"""Evaluate a codec or a speech LM on recordings with transcripts.

`evaluate` follows five steps: read the items, make the systems (`systems.py`), measure every item of every system
(`metrics/`), add the results to the record, and print the table (`results.py`). Nothing is chosen by looking at the
reference, except in the row that says so. T samples.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...data.corpus import Utterance, read_corpus
from ...data.mixing.mix_config import MixConfig
from ...data.mixing.mixer import Mixer, Premixed
from ...tokenizer import AudioTokenizer
from ...tokenizer.files import load_config
from ..inference.inputs import open_model
from .metrics import EvalSample, Metric, load_scorers
from .results import ItemResult, append_to_record, code_version, read_record, table_of_results
from .systems import TASK_INPUT, System, codec_systems, mixed_systems, speech_systems

TASKS = ("codec", "tts", "se", "ss")
_BATCH_ITEMS = 8  # items that are measured and recorded at once


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Args:
        task: "codec", "tts", "se" (enhancement) or "ss" (separation).
        data: Corpus with transcripts.
        model: "mini", a folder or a hub id.
        limit: Number of items, chosen by the seed; 0 for all.
        scorers: Set of metrics, as in `load_scorers`.
        seed: Seed of the choice of items, of the sampling and of the confidence intervals.
        mix: YAML file that makes noisy or mixed input from the corpus, for "se" and "ss".
        noise: Corpus of noise recordings, for mix files that need one.
        asr: Other ASR model than that of the scorers, as in `load_asr`.
        language: Language of the recordings, as a code of Whisper.
        baselines: Evaluate baselines on the same items.
        record: JSON-lines file of results. Results that it holds are not measured again, and new ones are added.
        layout: Name of a published corpus, if `data` has its layout.
        utmos: Checkout of UTMOS's repository.
        progress: Show a progress bar.
    """

    task: str
    data: Path
    model: str = "mini"
    limit: int = 0
    scorers: str = "mel"
    seed: int = 0
    mix: Path | None = None
    noise: Path | None = None
    asr: str | None = None
    language: str = "en"
    baselines: bool = False
    record: Path | None = None
    layout: str | None = None
    utmos: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Check the task.

        Raises:
            ValueError: The task is unknown, or takes no `mix`.
        """
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}: `evaluate` takes one of {', '.join(TASKS)}")
        if self.mix is not None and self.task not in TASK_INPUT:
            raise ValueError(
                f"`evaluate {self.task}` does not take --mix, found {self.mix}. Only `evaluate se` and `evaluate ss` "
                "have noisy or mixed input: leave out --mix"
            )


def evaluate(config: EvaluationConfig) -> str:
    """Run an evaluation. Returns a heading and a Markdown table.

    Raises:
        ValueError: The scorers are unknown, the recordings have no transcripts, or they do not fit the task.
        ImportError: A metric or a baseline is not installed.
    """
    metrics = load_scorers(config.scorers, config.asr, config.language, config.utmos)
    corpus = read_with_texts(config.data, config.layout)
    mixer = _open_mixer(config, corpus)
    items = choose_items(corpus if mixer is None else mixer.rows, config.limit, config.seed)

    if mixer is not None:
        systems = mixed_systems(config.task, mixer, items, open_model(config.model, config.task), config.baselines)
    elif config.task == "codec":
        systems = codec_systems(items, AudioTokenizer.from_pretrained(config.model), config.model, config.baselines)
    else:
        systems = speech_systems(items, open_model(config.model, config.task), config.seed, config.baselines)

    ids = [item.id for item in items]
    results = evaluate_systems(systems, ids, metrics, config.seed, config.record, config.progress)
    heading = f"{config.task} {config.model} on {config.data.name}, scorers: {config.scorers}"
    return f"{heading}\n\n{table_of_results(results, config.seed)}"


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


def choose_items(items: list[Utterance], limit: int, seed: int) -> list[Utterance]:
    """Return at most `limit` items, chosen by the seed and in their order; all items for 0."""
    if not 0 < limit < len(items):
        return items
    chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
    return [items[i] for i in sorted(chosen)]


def _open_mixer(config: EvaluationConfig, corpus: list[Utterance]) -> Mixer | Premixed | None:
    """Open what makes or reads noisy or mixed input; None for tasks without it.

    Raises:
        ValueError: The task needs such input and there is none, or the corpus has more than the task can use.
    """
    num_sources = len(corpus[0].sources)
    if config.task in TASK_INPUT:
        if config.mix is not None:
            noise = read_corpus(config.noise) if config.noise else ()
            return Mixer(load_config(MixConfig, config.mix), corpus, noise)
        if num_sources == 0:
            raise ValueError(
                "`evaluate se` and `evaluate ss` need noisy or mixed input. Pass --mix RECIPE.yaml, or a corpus that "
                "provides it (--layout voicebank, libri2mix)."
            )
        return Premixed(corpus)
    # A codec also takes noisy speech with its clean source, but no mixtures of speakers.
    if num_sources > (1 if config.task == "codec" else 0):
        kind = "noisy speech" if num_sources == 1 else "mixtures of speakers"
        raise ValueError(
            f"`evaluate {config.task}` needs clean recordings, but {config.data} holds {kind}. Pass another corpus, or "
            f"use `evaluate {'se' if num_sources == 1 else 'ss'}`"
        )
    return None


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
                    # Written at once, so that an evaluation that is killed loses one batch at most.
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
            result.update(scores)
            result["metrics"] = {**result["metrics"], metric.name: metric.checkpoint}
    return results


def _missing_metrics(i: int, known: list[ItemResult], metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that item `i` still needs."""
    measured = known[0]["metrics"] if known else {}
    missing = []
    for metric in metrics:
        within_limit = not metric.limit or i < metric.limit
        if within_limit and metric.name not in measured:
            missing.append(metric)
    return missing


def _complete(identity: ItemResult, result: ItemResult) -> ItemResult:
    """Add to a result what it is of, the code version, and a hash of the metrics' checkpoints."""
    config = hashlib.sha256(json.dumps(result["metrics"], sort_keys=True).encode()).hexdigest()[:12]
    return {**identity, **result, "commit": code_version(), "config": config}
