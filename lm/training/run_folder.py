"""The folder of a training run: its checkpoints, its recipe, and the losses as a table and a picture."""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...data.token_store import describe_codec
from ...tokenizer import AudioTokenizer
from ...tokenizer.files import write_whole
from .dataset import DatasetStats, ExampleDataset, Source
from .recipe import LMRecipe

logger = logging.getLogger(__name__)

# Fields of TrainingArguments that do not change the weights: what is logged, measured and kept, and when.
_HARMLESS = {
    "logging_steps",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "eval_steps",
    "eval_strategy",
    "report_to",
}
_DURATION = {"max_steps", "num_train_epochs"}


def last_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint: a run can be killed while it writes one."""
    steps = []
    for path in run.glob("checkpoint-*"):
        suffix = path.name.removeprefix("checkpoint-")
        if suffix.isdigit():
            steps.append(int(suffix))
    for step in sorted(steps, reverse=True):
        checkpoint = run / f"checkpoint-{step}"
        try:
            # The Trainer writes this file last.
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            logger.warning("%s is incomplete: an earlier checkpoint is used", checkpoint)
        else:
            return checkpoint
    return None


def record_run(recipe: LMRecipe, train_dataset: ExampleDataset, audio_tokenizer: AudioTokenizer, run: Path) -> None:
    """Write `run/recipe.json`: the recipe, the data and the codec.

    Raises:
        ValueError: The folder has checkpoints of a run that differs in something on which the weights depend.
    """
    path = run / "recipe.json"
    codec = describe_codec(audio_tokenizer)
    del codec["name"]
    sources = []
    for source, stats in zip(train_dataset.sources, train_dataset.stats, strict=True):
        sources.append(_describe_source(source, stats))
    # Through JSON and back, so that tuples compare as lists.
    description = json.loads(json.dumps({**asdict(recipe), "sources": sources, "codec": codec}))
    if path.is_file():
        changed = _changed_keys(json.loads(path.read_text()), description)
        if changed and last_checkpoint(run):
            raise ValueError(_explain_change(run, changed))
    run.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(description, indent=1).encode())


def _describe_source(source: Source, stats: DatasetStats) -> dict[str, Any]:
    """Describe the examples of a source by counts, so that they need not be read again to be compared."""
    return {
        "template": asdict(source.template),
        "repeat": source.repeat,
        "examples": len(stats.lengths),
        "ids": sum(stats.lengths),
        "targets_sha256": hashlib.sha256(stats.target_counts.tobytes()).hexdigest(),
    }


def _changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the keys on which the weights depend and whose values differ."""
    changed = []
    for key, value in now.items():
        # A key that an earlier version did not write counts as unchanged.
        if key not in ("trainer", "evaluate") and before.get(key, value) != value:
            changed.append(key)
    old_trainer = before["trainer"]
    harmless = set(_HARMLESS)
    if old_trainer.get("lr_scheduler_type") == "constant":
        harmless |= _DURATION
    changed_trainer = []
    for key in {**old_trainer, **now["trainer"]}:
        if key not in harmless and old_trainer.get(key) != now["trainer"].get(key):
            changed_trainer.append(f"trainer.{key}")
    return sorted(changed) + sorted(changed_trainer)


def _explain_change(run: Path, changed: list[str]) -> str:
    message = f"{run} holds a run that differs in {changed}: name another folder, or undo the change to continue it"
    if {key.removeprefix("trainer.") for key in changed} <= _DURATION:
        message += (
            ". The learning rate follows a schedule over the whole length of a run; to be able to lengthen a run, set "
            "lr_scheduler_type: constant from the start"
        )
    return message


def write_losses(log_history: Iterable[Mapping[str, Any]], unigram_entropy: float, folder: Path) -> None:
    """Write `losses.csv` and `losses.png`.

    Args:
        log_history: The log of the Trainer.
        unigram_entropy: Nats per target id of a model that has learned only how frequent each id is, drawn as a line.
        folder: The folder to write to.
    """
    entries = [entry for entry in log_history if "loss" in entry or "eval_loss" in entry]
    table = io.StringIO()
    writer = csv.DictWriter(table, ("step", "epoch", "loss", "eval_loss"), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(entries)
    write_whole(folder / "losses.csv", table.getvalue().encode())

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    axis = figure.add_subplot()
    for column, label in (("loss", "training"), ("eval_loss", "validation")):
        steps = []
        losses = []
        for entry in entries:
            if column in entry:
                steps.append(entry["step"])
                losses.append(entry[column])
        axis.plot(steps, losses, ".-", label=label)
    axis.axhline(unigram_entropy, color="gray", linestyle="--", label="unigram entropy")
    axis.set(xlabel="update", ylabel="nats per target id")
    axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(folder / "losses.png", picture.getvalue())
