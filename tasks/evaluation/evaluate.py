"""Evaluate codecs and speech LMs on recordings with transcripts. T samples."""

import hashlib
import json
from collections.abc import Sequence
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
from .systems import System, codec_systems, mixed_systems, speech_systems

TASKS = ("codec", "tts", "se", "ss")


_BATCH = 8  # items that are judged together


def evaluate_task(
    task: str,
    data: Path,
    model: str,
    limit: int,
    scorers: str,
    seed: int,
    mix: Path | None = None,
    noise: Path | None = None,
    asr: str | None = None,
    language: str = "en",
    others: bool = False,
    record: Path | None = None,
    progress: bool = False,
    layout: str | None = None,
    utmos: str | None = None,
) -> str:
    """-> a heading and a Markdown table; see `focallm evaluate --help` for the arguments.

    Raises:
        ValueError: unknown task or scorers, recordings without transcripts, or a recipe that is missing or of no use.
        ImportError: a scorer or something to compare with is not installed.
    """
    if task not in TASKS:
        raise ValueError(f"codec, tts, se and ss can be evaluated, found {task!r}")
    metrics = load_scorers(scorers, asr, language, utmos)
    items = read_with_texts(data, layout)
    rewrites, sources = task in ("se", "ss"), len(items[0].sources)
    if rewrites != (mix is not None or sources > (task == "codec")):
        raise ValueError(
            "se and ss, and only they, need --mix: how the recordings that the model hears are made; or a corpus that "
            "has them, such as voicebank (a codec may hear that, too) and libri2mix with --layout"
        )
    mixer: Mixer | Premixed | None = None
    if mix is not None:
        mixer = Mixer(load_config(MixConfig, mix), items, read_corpus(noise) if noise else ())
    elif rewrites:
        mixer = Premixed(items)
    items = choose_items(items if mixer is None else mixer.rows, limit, seed)
    if mixer is not None:
        systems = mixed_systems(task, mixer, items, open_model(model, task), others)
    elif task == "codec":
        systems = codec_systems(items, AudioTokenizer.from_pretrained(model), model, others)
    else:
        systems = speech_systems(items, open_model(model, task), seed, others)
    lines = evaluate_systems(systems, [item.id for item in items], metrics, seed, record, progress)
    heading = f"{task} {model} on {data.name}, scorers: {scorers}"
    return f"{heading}\n\n{table_of_results(lines, seed)}"


def read_with_texts(data: Path, layout: str | None = None) -> list[Utterance]:
    """The utterances of a corpus that have a transcript, of every talker.

    Raises:
        ValueError: none has.
    """
    corpus = read_corpus(data, layout=layout)
    items = [item for item in corpus if all(one.text for one in item.sources or (item,))]
    if not items:
        raise ValueError(f"{data} has no transcripts: evaluation needs a text for each recording")
    return items


def choose_items(items: list[Utterance], limit: int, seed: int) -> list[Utterance]:
    """At most `limit` of them, chosen by the seed; all for 0."""
    if not 0 < limit < len(items):
        return items
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), limit, replace=False))]


def evaluate_systems(
    systems: Sequence[System],
    ids: Sequence[str],
    metrics: Sequence[Metric],
    seed: int = 0,
    record: Path | None = None,
    progress: bool = False,
) -> dict[str, list[ItemResult]]:
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
    found: dict[str, list[ItemResult]] = {}
    for system in systems:
        own = {i: known.get((name, system.name, system.fingerprint), []) for i, name in enumerate(ids)}
        with tqdm(total=len(ids), desc=system.name, unit="item", disable=not progress) as bar:
            for start in range(0, len(ids), _BATCH):
                batch = {i: own[i] for i in range(start, min(start + _BATCH, len(ids)))}
                for i, lines in _evaluate_batch(system, batch, metrics).items():
                    about = {"id": ids[i], "system": system.name, "fingerprint": system.fingerprint, "seed": seed}
                    own[i] = [{**about, **line, "commit": code_version(), "config": _config(line)} for line in lines]
                    append_to_record(record, own[i])
                bar.update(len(batch))
        found[system.name] = [line for lines in own.values() for line in lines]
    return found


def _agrees(line: ItemResult, judges: dict[str, str], seed: int) -> bool:
    """Whether a line is of this seed, and nobody who judged it has become another. Lines of old name no judges."""
    if "metrics" not in line or line["seed"] != seed:
        return False
    return all(judges.get(name, checkpoint) == checkpoint for name, checkpoint in line["metrics"].items())


def _evaluate_batch(
    system: System, batch: dict[int, list[ItemResult]], metrics: Sequence[Metric]
) -> dict[int, list[ItemResult]]:
    """Items and what is known of them -> the lines of those that are judged now, by more metrics"""
    missing = {i: _missing(i, lines, metrics) for i, lines in batch.items()}
    sounds = {i: system.make(i) for i, lines in batch.items() if missing[i] or not lines}
    judged = {i: [_facts(sound) for sound in made] for i, made in sounds.items()}
    for i, lines in judged.items():
        judged[i] = [{**old, **new} for old, new in zip(batch[i] or [{"metrics": {}}] * len(lines), lines, strict=True)]
    for metric in metrics:
        asked = [i for i in sounds if metric in missing[i]]
        measured = metric([sound for i in asked for sound in sounds[i]])
        for line, values in zip((line for i in asked for line in judged[i]), measured, strict=True):
            line.update(values, metrics={**line["metrics"], metric.name: metric.checkpoint})
    return judged


def _missing(i: int, lines: list[ItemResult], metrics: Sequence[Metric]) -> list[Metric]:
    """Those metrics that have yet to judge an item."""
    judges = lines[0]["metrics"] if lines else {}
    return [metric for metric in metrics if metric.name not in judges and (not metric.limit or i < metric.limit)]


def _facts(sound: EvalSample) -> ItemResult:
    return {"seconds": len(sound.audio) / sound.rate, "text": sound.text, **sound.facts}


def _config(line: ItemResult) -> str:
    return hashlib.sha256(json.dumps(line["metrics"], sort_keys=True).encode()).hexdigest()[:12]
