"""Files that describe a run and let it resume: recipe.json, machine.json, checkpoint.pt."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch

from ..files import whole_file, write_whole
from .config import StageConfig


def write_recipe(config: StageConfig, folder: Path) -> None:
    """Write `recipe.json`.

    Raises:
        ValueError: The folder holds a run of another recipe.
    """
    path = folder / "recipe.json"
    content = json.dumps(dataclasses.asdict(config), indent=1)
    if path.exists():
        new = json.loads(content)
        old = json.loads(path.read_text())
        changed = sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))
        if changed:
            raise ValueError(
                f"{folder} holds a run whose recipe differs in {changed}: name another folder, or undo the change to "
                "continue it"
            )
    write_whole(path, content.encode())


def write_machine(folder: Path, device: torch.device, num_processes: int) -> None:
    """Write `machine.json`, which describes the machine on which the run was last continued."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{os.cpu_count()} CPU cores ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} used"
    content = {"device": name, "processes": num_processes, "torch": torch.__version__}
    write_whole(folder / "machine.json", json.dumps(content, indent=1).encode())


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `checkpoint.pt` atomically. It has no random state, which follows from the seed and the step."""
    with whole_file(folder / "checkpoint.pt") as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read `checkpoint.pt` without unpickling code. Returns None if there is no such file yet."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)


def load_discriminators(folder: Path) -> dict[str, Any]:
    """Read the discriminators of another run, with their optimizer.

    Raises:
        ValueError: The folder has none.
    """
    state = load_checkpoint(folder)
    if state is None or state["gan"] is None:
        raise ValueError(f"gan.start_from: {folder} holds no run with discriminators: name the folder of one")
    return state["gan"]
