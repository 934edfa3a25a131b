"""A trained codec becomes a folder to ship: weights in half precision, and a card written from the run's own record."""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..tokenizer import AudioTokenizer
from ..tokenizer.files import write_whole
from ..tokenizer.training import CodecTrainingConfig, read_stages, result_folder
from .evaluation.results import table_of_record

_PAUSE = 10  # a gap between two lines of a log that is this many times the usual one: the run stood still

_HEAD = """---
license: apache-2.0
library_name: focallm
pipeline_tag: audio-to-audio
---
"""


def release_codec(recipe: Path, run: Path, out: Path, evaluations: Sequence[Path], seed: int) -> str:
    """Write weights and card; -> a line that says so. See `focallm release --help` for the arguments.

    Raises:
        OSError: a stage is not trained.
    """
    stages = read_stages(recipe, run)
    missing = [str(folder) for folder, values in stages.items() if not result_folder(folder, values).is_dir()]
    if missing:
        raise OSError(f"not trained yet: {missing}. Train them with focallm train-codec {recipe} CORPUS {run}")
    last, values = list(stages.items())[-1]
    tokenizer = AudioTokenizer.from_pretrained(result_folder(last, values), dtype="float16")
    tokenizer.save_pretrained(out)
    tokenizer = AudioTokenizer.from_pretrained(out)  # as it is evaluated
    weights = out / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    parameters = sum(p.numel() for p in tokenizer.codec.parameters())
    parts = [
        _HEAD,
        f"# {out.name}: a small FocalCodec",
        "",
        f"{tokenizer.sampling_rate} Hz speech <-> {tokenizer.frame_rate:g} tokens/s, {tokenizer.bits_per_second:.0f} "
        f"bit/s; {parameters / 1e6:.2f} M parameters, half precision, {weights.stat().st_size / 1e6:.1f} MB.",
        f"`model.safetensors`: sha256 `{digest}`.",
        "",
        "## What it learnt from",
        "",
        *_data(json.loads((run / "data.json").read_text())),
        "",
        "## How",
        "",
        f"    focallm train-codec {recipe} CORPUS {run}",
        "",
        "| stage | updates | seconds of audio in an update | hours | on | last validation |",
        "|---|---|---|---|---|---|",
        *(_stage(folder, own) for folder, own in stages.items()),
        *_older_parts(stages, run),
    ]
    for record in evaluations:
        parts += ["", f"## Measured: {record.stem}", "", table_of_record(record, [tokenizer.codec], seed)]
    write_whole(out / "README.md", ("\n".join(parts) + "\n").encode())
    return f"{weights}: {weights.stat().st_size / 1e6:.1f} MB, and its card, {out / 'README.md'}"


def _data(data: dict[str, Any]) -> list[str]:
    return [
        f"{data['utterances']} utterances, {data['hours']:.2f} h; sha256 of the list of ids, durations and texts: "
        f"`{data['sha256']}`.",
        "",
        "| source | licence | speakers | utterances | hours |",
        "|---|---|---|---|---|",
        *(
            f"| {g['source']} | {g['licence']} | {g['speakers']} | {g['utterances']} | {g['hours']:.2f} |"
            for g in data["groups"]
        ),
        "",
        "Whether weights inherit the terms of recordings is not settled; these are the credits and terms.",
    ]


def _stage(folder: Path, recipe: CodecTrainingConfig) -> str:
    lines = [json.loads(line) for line in (folder / "log.jsonl").open()]
    machine = json.loads((folder / "machine.json").read_text())
    measured: dict[str, float] = next((line for line in reversed(lines) if "validation_loss" in line), {})
    shown = {
        name.removeprefix("validation_").replace("_", " "): f"{value:.4g}"
        for name, value in measured.items()
        if name.startswith("validation_") or name in ("codes_used", "tokens", "entropy_bits")
    }
    cells = [
        folder.name,
        f"{recipe.steps}",
        f"{recipe.batch_size * recipe.seconds:.0f}" if recipe.seconds else f"{recipe.batch_size} utterances",
        f"{_hours([line['time'] for line in lines]):.2f}",
        machine["device"],
        ", ".join(f"{name} {value}" for name, value in shown.items()),
    ]
    return f"| {' | '.join(cells)} |"


def _older_parts(stages: dict[Path, CodecTrainingConfig], run: Path) -> list[str]:
    """Where weights came from that this run did not begin."""
    older = {
        part: source
        for recipe in stages.values()
        for part, source in recipe.parts_from.items()
        if not Path(source).is_relative_to(run)
    }
    learnt = {part for recipe in stages.values() for part in recipe.trainable_parts}
    verbs = {part: "began as that of" if part in learnt else "came from" for part in older}
    return ["", *(f"The {part} {verbs[part]} {source}." for part, source in older.items())]


def _hours(times: Sequence[float]) -> float:
    """The time between the first and the last line of a log, without the pauses of a run that was stopped."""
    gaps = sorted(b - a for a, b in pairwise(times))
    usual = gaps[len(gaps) // 2] if gaps else 0.0
    return sum(gap for gap in gaps if 0 <= gap <= _PAUSE * max(usual, 1.0)) / 3600
