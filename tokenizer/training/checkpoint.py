"""Where a run stands: its recipe, and what a killed process needs to go on as if nothing had happened."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from ..files import whole_file, write_whole
from .config import CodecTrainingConfig
from .trainer import Trainer


def remember_recipe(recipe: CodecTrainingConfig, folder: Path) -> None:
    """Write `recipe.json`.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    path, now = folder / "recipe.json", json.loads(json.dumps(vars(recipe)))
    if path.exists():
        defaults = json.loads(json.dumps(dataclasses.asdict(CodecTrainingConfig("teacher", seconds=0.0))))
        before = {**defaults, **json.loads(path.read_text())}
        changed = sorted(key for key in now if now[key] != before[key])
        if changed:
            raise ValueError(
                f"{folder} holds a run whose recipe differs in {changed}: name another folder, or undo the change to "
                "continue it"
            )
    write_whole(path, json.dumps(now, indent=1).encode())


def save_checkpoint(folder: Path, trainer: Trainer, step: int) -> None:
    """Write `checkpoint.pt`, whole or not at all. Everything random follows from the seed and the step."""
    with whole_file(folder / "checkpoint.pt") as temporary:
        torch.save({"step": step, **trainer.state_dict()}, temporary)


def load_adversary(folder: Path) -> dict[str, Any]:
    """The discriminators, with their optimiser, of the run that stands in a folder.

    Raises:
        ValueError: it has none.
    """
    path = folder / "checkpoint.pt"
    state = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}
    if state.get("adversary") is None:
        raise ValueError(f"adversary_from: {folder} holds no run with discriminators: name the folder of one")
    return state["adversary"]


def load_checkpoint(folder: Path, trainer: Trainer) -> int:
    """Restore a run from its folder, where only tensors are unpickled; -> its step, 0 if it has not begun."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    trainer.load_state_dict(state)
    return state["step"]
