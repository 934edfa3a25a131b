"""Table 5: what can be done with the tokens of each codec, by probes and by speech LMs."""

import json
from pathlib import Path
from typing import Any

from ...lm import SpeechLM
from ..evaluation import speech_systems
from ..measurement import judge
from .columns import columns_of
from .inputs import rewritten
from .measured import measured
from .published import published
from .rendering import Interval, Row, Table
from .request import Request, names_of
from .resynthesis import notes

# Probe -> task and column of the table.
PROBES = {"asr": ("ASR", "wer"), "speaker": ("SI", "er"), "emotion": ("SER", "er")}
MODELS = ("se", "ss", "tts")  # tasks of speech LMs


def downstream_table(request: Request) -> Table:
    """The probes and speech LMs that were trained, `RUNS/CODEC/TASK`; what is missing is named with its command.

    Raises:
        ValueError: no folder of runs.
    """
    if request.runs is None:
        raise ValueError("Table 5 is of trained probes and models: give --runs FOLDER, which holds CODEC/TASK each")
    rows, missing = published(5), []
    for spec, contender in zip(request.codecs, request.contenders, strict=True):
        if contender.tokenizer is None:
            continue
        folder = request.runs / Path(spec.partition("=")[0]).name
        for task, (title, column) in PROBES.items():
            result = folder / task / "result.json"
            if result.is_file():
                rows.append(_probed(contender.name, title, column, json.loads(result.read_text())))
            else:
                missing.append(f"focallm probe {task} STORE {folder / task} --codec {spec}")
        models = {task: folder / task / "model" for task in MODELS}
        trained = {task: SpeechLM.from_pretrained(path) for task, path in models.items() if path.is_dir()}
        if trained.keys() & {"se", "ss"}:
            rows += rewritten(request, contender.name, trained)
        if "tts" in trained:
            rows += _spoken(request, contender.name, trained["tts"])
        missing += [
            f"focallm train {task} STORE {folder / task} --codec {spec}" for task in MODELS if task not in trained
        ]
    commands = [f"Not trained yet: {command}" for command in sorted(missing)]
    return Table("Table 5: downstream tasks", columns_of(rows), rows, [*notes(request), *commands])


def _probed(name: str, title: str, column: str, result: dict[str, Any]) -> Row:
    rate = Interval(*(100 * result[key] for key in ("rate", "low", "high")))
    return Row(name, {"task": title, column: rate})


def _spoken(request: Request, name: str, lm: SpeechLM) -> list[Row]:
    test_set, corpus = request.first
    items = request.some(corpus)
    systems, ids = speech_systems(items, lm, seed=request.seed), names_of(test_set, items)
    found = judge(systems, ids, request.metrics(items), request.seed, request.record, request.progress)
    return [measured(f"{name}, {system}", lines, request.seed, task="TTS") for system, lines in found.items()]
