"""Table 5: what can be done with the tokens of each codec, by probes and by speech LMs."""

import json
from pathlib import Path

from ...lm import SpeechLM
from ..evaluation.evaluate import evaluate_systems
from ..evaluation.systems import speech_systems
from .columns import columns_of
from .inputs import rewritten
from .measured import measured
from .published import published
from .rendering import Interval, Row, Table
from .resynthesis import notes
from .table_config import TableConfig, names_of

# Probe -> task and column of the table.
PROBES = {"asr": ("ASR", "wer"), "speaker": ("SI", "er"), "emotion": ("SER", "er")}
MODELS = ("se", "ss", "tts")  # tasks of speech LMs


def downstream_table(config: TableConfig) -> Table:
    """The probes and speech LMs that were trained, `RUNS/CODEC/TASK`; what is missing is named with its command.

    Raises:
        ValueError: no folder of runs; or there are speech LMs, and no data or recipe for them.
    """
    if config.runs is None:
        raise ValueError("Table 5 is of trained probes and models: give --runs FOLDER, which holds CODEC/TASK each")
    rows, said = published(5), list[str]()
    for spec, baseline in zip(config.codecs, config.baselines, strict=True):
        if baseline.tokenizer is not None:
            folder = config.runs / Path(spec.partition("=")[0]).name
            probed, written = _probes(baseline.name, folder), _models(config, baseline.name, folder)
            rows += [*probed.values(), *(row for own in written.values() for row in own)]
            said += [f"Not trained yet: {command} --codec {spec}" for command in _commands(folder, {*probed, *written})]
            said += notes(config) if written else []
    return Table("Table 5: downstream tasks", columns_of(rows), rows, list(dict.fromkeys(said)))


def _commands(folder: Path, trained: set[str]) -> list[str]:
    probes = [f"focallm probe {task} STORE {folder / task}" for task in PROBES if task not in trained]
    return probes + [f"focallm train {task} STORE {folder / task}" for task in MODELS if task not in trained]


def _probes(name: str, folder: Path) -> dict[str, Row]:
    """-> the row of every probe that was trained, by its task"""
    rows = {}
    for task, (title, column) in PROBES.items():
        if (folder / task / "result.json").is_file():
            result = json.loads((folder / task / "result.json").read_text())
            rate = Interval(*(100 * result[key] for key in ("rate", "low", "high")))
            rows[task] = Row(f"{name} (n = {result['n']}, seed {result['seed']})", {"task": title, column: rate})
    return rows


def _models(config: TableConfig, name: str, folder: Path) -> dict[str, list[Row]]:
    """-> the rows of every speech LM that was trained, by its task"""
    paths = {task: folder / task / "model" for task in MODELS}
    trained = {task: SpeechLM.from_pretrained(path) for task, path in paths.items() if path.is_dir()}
    rows = {task: rewritten(config, name, {task: lm}) for task, lm in trained.items() if task != "tts"}
    return {**rows, **({"tts": _spoken(config, name, trained["tts"])} if "tts" in trained else {})}


def _spoken(config: TableConfig, name: str, lm: SpeechLM) -> list[Row]:
    test_set, corpus = config.first
    items = config.some(corpus)
    systems, ids = speech_systems(items, lm, seed=config.seed), names_of(test_set, items)
    found = evaluate_systems(systems, ids, config.metrics(items), config.seed, config.record, config.progress)
    return [measured(f"{name}, {system}", lines, config.seed, task="TTS") for system, lines in found.items()]
