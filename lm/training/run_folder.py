"""The folder of a training run: its checkpoints, its recipe, and the losses as a table and a picture."""

import csv
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from transformers import TrainingArguments

from ...data.token_store import describe_codec
from ...tokenizer import AudioTokenizer
from ...tokenizer.configs import read_json
from ...tokenizer.files import write_whole
from ...tokenizer.runs import forget_finished, identify_source, is_finished
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
# Fields that may grow if the learning rate is constant.
_DURATION = {"max_steps", "num_train_epochs"}
_RECORD = "recipe.json"
_STATE = "trainer_state.json"  # of a checkpoint; the Trainer writes it last
# Keys of the record that say where things are. Other keys say what they hold.
_PLACES = {"base", "extra_tasks"}


def last_checkpoint(run: Path, before: int | None = None) -> Path | None:
    """Return the newest complete checkpoint: a run can be killed while it writes one.

    Args:
        run: The folder of the run.
        before: Number of an update; only checkpoints of earlier updates count.
    """
    steps = []
    for path in run.glob("checkpoint-*"):
        suffix = path.name.removeprefix("checkpoint-")
        if suffix.isdigit() and (before is None or int(suffix) < before):
            steps.append(int(suffix))
    for step in sorted(steps, reverse=True):
        checkpoint = run / f"checkpoint-{step}"
        try:
            json.loads((checkpoint / _STATE).read_text())
        except (OSError, ValueError):
            logger.warning("%s is incomplete: an earlier checkpoint is used", checkpoint)
        else:
            return checkpoint
    return None


def describe_run(recipe: LMRecipe, train_dataset: ExampleDataset, audio_tokenizer: AudioTokenizer) -> dict[str, Any]:
    """Return what the weights of a run follow from: the recipe, the data, the codec and the base."""
    codec = describe_codec(audio_tokenizer)
    del codec["name"]
    sources = []
    for source, stats in zip(train_dataset.sources, train_dataset.stats, strict=True):
        sources.append(_describe_source(source, stats))
    base_weights = identify_source(recipe.base) if recipe.base else None
    # Through JSON and back, so that tuples compare as lists.
    description = {**asdict(recipe), "sources": sources, "codec": codec, "base_weights": base_weights}
    return json.loads(json.dumps(description))


def was_finished(run: Path, description: dict[str, Any]) -> bool:
    """Return whether the folder `run` holds a finished run of this description, from `describe_run`."""
    record = _read_record(run)
    return bool(record) and not _changed_keys(record, description) and is_finished(run, run / "model")


def start_run(run: Path, description: dict[str, Any]) -> Path | None:
    """Write `run/recipe.json`, which describes the run, and return the checkpoint at which it continues, if any.

    Args:
        run: The folder of the run.
        description: From `describe_run`.

    Raises:
        ValueError: The folder holds a run that differs in something on which the weights depend, or one that cannot be
            lengthened or is longer than this one.
    """
    record = _read_record(run)
    checkpoint = last_checkpoint(run)
    changed = _changed_keys(record, description) if record else []
    if changed and (checkpoint or is_finished(run, run / "model")):
        _check_is_longer(run, record, description, changed, checkpoint)
    run.mkdir(parents=True, exist_ok=True)
    # From now on a lengthened run is unfinished.
    forget_finished(run)
    write_whole(run / _RECORD, json.dumps(description, indent=1).encode())
    _prepare_checkpoints(run, checkpoint)
    return checkpoint


def _prepare_checkpoints(run: Path, last: Path | None) -> None:
    """Remove the incomplete checkpoints that kills left, and tell the last one where the best one is after a move."""
    for path in run.glob("checkpoint-*"):
        if not (path / _STATE).is_file():
            shutil.rmtree(path, ignore_errors=True)
    if last is None:
        return
    state = json.loads((last / _STATE).read_text())
    best = state.get("best_model_checkpoint")
    if best and Path(best).parent != run:
        state["best_model_checkpoint"] = str(run / Path(best).name)
        write_whole(last / _STATE, json.dumps(state, indent=2).encode())


def _read_record(run: Path) -> dict[str, Any]:
    """Return what `run/recipe.json` holds, or nothing if there is no run yet."""
    path = run / _RECORD
    return read_json(path) if path.is_file() else {}


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
        if key not in {"trainer", "evaluate", *_PLACES} and before.get(key, value) != value:
            changed.append(key)
    changed_trainer = []
    for key in {**before["trainer"], **now["trainer"]}:
        if key not in _HARMLESS and before["trainer"].get(key) != now["trainer"].get(key):
            changed_trainer.append(f"trainer.{key}")
    return sorted(changed) + sorted(changed_trainer)


def _check_is_longer(
    run: Path, before: dict[str, Any], now: dict[str, Any], changed: list[str], checkpoint: Path | None
) -> None:
    """Raise a ValueError unless the only change is that a run with a constant learning rate becomes longer."""
    message = f"{run} holds a run that differs in {changed}: name another folder, or undo the change to continue it"
    if not set(changed) <= {f"trainer.{key}" for key in _DURATION}:
        raise ValueError(message)
    if before["trainer"].get("lr_scheduler_type") != "constant":
        raise ValueError(
            f"{message}. The learning rate follows a schedule over the whole length of a run; to be able to lengthen a "
            "run, set lr_scheduler_type: constant from the start"
        )
    if checkpoint is None:
        raise ValueError(f"{message}. It has no checkpoint at which a longer run could continue")
    state = json.loads((checkpoint / _STATE).read_text())
    max_steps = now["trainer"].get("max_steps", 0)
    num_epochs = now["trainer"].get("num_train_epochs", TrainingArguments.num_train_epochs)
    is_shorter = state["global_step"] > max_steps if max_steps > 0 else state["epoch"] > num_epochs
    if is_shorter:
        raise ValueError(f"{message}. {checkpoint} has had more updates than the recipe now asks for")


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
