"""A trained language model becomes a folder to ship: half precision, its card and its figures from the run's record."""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..lm import SpeechLM
from ..tokenizer.files import write_whole
from .evaluation.results import table_of_record

_HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: {tag}
---
"""
MEASURED = "measured.md"  # the tables alone, for the demo's page


def release_lm(recipe: Path, run: Path, out: Path, evaluations: Sequence[Path], seed: int) -> str:
    """Write weights, card and tables; -> a line that says so. See `focallm release --help` for the arguments.

    Raises:
        OSError: the run is not finished.
    """
    if not (run / "model").is_dir():
        raise OSError(f"{run} has no model yet: train it with focallm train TASK STORE {run} --recipe {recipe}")
    SpeechLM.from_pretrained(run / "model", dtype="float16").save_pretrained(out)
    lm = SpeechLM.from_pretrained(out)  # as it is evaluated
    weighed = [lm.model, lm.audio_tokenizer.codec]
    tables = [f"{_title(record)}\n\n{table_of_record(record, weighed, seed)}" for record in evaluations]
    write_whole(out / MEASURED, ("\n\n".join(tables) + "\n").encode())
    write_whole(out / "README.md", _card(lm, recipe, run, out, tables).encode())
    weights = out / "model.safetensors"
    return f"{weights}: {weights.stat().st_size / 1e6:.1f} MB, and its card, {out / 'README.md'}"


def _card(lm: SpeechLM, recipe: Path, run: Path, out: Path, tables: list[str]) -> str:
    weights, values = out / "model.safetensors", json.loads((run / "recipe.json").read_text())
    tasks = [source["template"]["name"] for source in values["sources"]]
    with (run / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    validation = [row for row in rows if row["eval_loss"]][-1]
    config: Any = lm.model.config.get_text_config()
    speaks = any(name.startswith(("tts", "zero-shot")) for name in tasks)
    return "\n".join(
        [
            _HEAD.format(tag="text-to-speech" if speaks else "audio-to-audio"),
            f"# {out.name}: a small speech LM",
            "",
            f"Llama-shaped, {config.num_hidden_layers} layers of width {config.hidden_size}, "
            f"{lm.model.num_parameters() / 1e6:.1f} M parameters, half precision, "
            f"{weights.stat().st_size / 1e6:.1f} MB; it reads and writes the tokens of the codec `mini` beside it, and "
            "those of no other codec, an earlier `mini` included.",
            f"`model.safetensors`: sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`.",
            *([f"Voices: {', '.join(lm.info.voices)}."] if lm.info.voices else []),
            "",
            "## What it learnt, and how",
            "",
            f"    focallm train {tasks[0]} STORE {run} --recipe {recipe}",
            "",
            "| task | examples | ids | times per epoch |",
            "|---|---|---|---|",
            *(
                f"| {source['template']['name']} | {source['examples']} | {source['ids']} | {source['repeat']} |"
                for source in values["sources"]
            ),
            "",
            *([f"It began with the weights of {values['base']}.", ""] if values["base"] else []),
            f"{validation['step']} updates, {float(validation['epoch']):.1f} epochs, seed {values['seed']}; validation "
            f"loss {float(validation['eval_loss']):.3f} nats per target id.",
            "",
            "## Measured",
            "",
            "\n\n".join(tables),
            "",
        ]
    )


def _title(record: Path) -> str:
    return record.stem.replace("_", " ").replace("-", " ")
