"""Continuing a run that was stopped, and refusing to continue it as another one."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...data.token_store import describe_codec
from ...tokenizer import AudioTokenizer
from ...tokenizer.files import write_whole
from .examples import DatasetStats, Examples, Source
from .recipe import LMRecipe

logger = logging.getLogger(__name__)

# Fields of TrainingArguments that change no weights: what is said, measured and kept, and when.
_FREE = {"logging_steps", "save_steps", "save_strategy", "save_total_limit", "eval_steps", "eval_strategy", "report_to"}
_LENGTH = {"max_steps", "num_train_epochs"}


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that was written to its end: a run can be killed while it writes one."""
    steps = [int(path.name.split("-")[1]) for path in run.glob("checkpoint-*") if path.name[11:].isdigit()]
    for step in sorted(steps, reverse=True):
        try:
            json.loads((run / f"checkpoint-{step}" / "trainer_state.json").read_text())  # the Trainer writes it last
            return run / f"checkpoint-{step}"
        except (OSError, ValueError):
            logger.warning("%s/checkpoint-%d is incomplete: an earlier one is used", run, step)
    return None


def remember(recipe: LMRecipe, train_dataset: Examples, audio_tokenizer: AudioTokenizer, run: Path) -> None:
    """Write `run/recipe.json`: the recipe, what is learnt from, and the codec.

    Raises:
        ValueError: the folder has checkpoints of a run that differs in anything that decides about weights.
    """
    path = run / "recipe.json"
    codec = {key: value for key, value in describe_codec(audio_tokenizer).items() if key != "name"}
    sources = [
        _describe(source, stats) for source, stats in zip(train_dataset.sources, train_dataset.stats, strict=True)
    ]
    now = json.loads(json.dumps({**asdict(recipe), "sources": sources, "codec": codec}))
    before = json.loads(path.read_text()) if path.is_file() else now
    changed = _differing(before, now)
    if changed and last_checkpoint(run):
        reason = f"{run} holds a run that differs in {changed}: name another folder, or undo the change to continue it"
        if {name.removeprefix("trainer.") for name in changed} <= _LENGTH:
            reason += (
                ". Its learning rate follows a schedule over its whole length; one that is to be lengthened needs "
                "lr_scheduler_type: constant from the beginning"
            )
        raise ValueError(reason)
    run.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1).encode())


def _describe(source: Source, stats: DatasetStats) -> dict[str, Any]:
    """Two sources with the same values hold, as far as can be told without reading them again, the same examples."""
    return {
        "template": asdict(source.template),
        "repeat": source.repeat,
        "examples": len(stats.lengths),
        "ids": sum(stats.lengths),
        "targets_sha256": hashlib.sha256(stats.label_counts.tobytes()).hexdigest(),
    }


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of what decides about weights and differs; what an earlier version did not write counts as the same."""
    old, new = before["trainer"], now["trainer"]
    free = _FREE | _LENGTH if old.get("lr_scheduler_type") == "constant" else _FREE
    names = [key for key in now if key not in ("trainer", "evaluate") and before.get(key, now[key]) != now[key]]
    return sorted(names) + sorted(
        f"trainer.{key}" for key in {**old, **new} if key not in free and old.get(key) != new.get(key)
    )
