"""Files that describe a run and let it resume: recipe.json, machine.json, checkpoint.pt."""

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ..configs import read_json
from ..files import whole_file, write_whole
from ..runs import describe_source, identify_source
from .config import StageConfig


def write_recipe(config: StageConfig, folder: Path) -> None:
    """Write `recipe.json`, in which weights to start from are described by their hash.

    Raises:
        ValueError: The folder holds a run of another recipe.
    """
    path = folder / "recipe.json"
    values = dataclasses.asdict(config)
    for section, key in _sources(values):
        section[key] = describe_source(section[key])
    content = json.dumps(values, indent=1)
    if path.exists():
        changed = _changed_keys(read_json(path), json.loads(content))
        if changed:
            raise ValueError(
                f"{folder} holds a run whose recipe differs in {changed}: name another folder, or undo the change to "
                "continue it"
            )
    write_whole(path, content.encode())


def _sources(values: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Find the weights to start from in the values of a recipe: pairs of a mapping and the key of weights in it."""
    places: list[tuple[dict[str, Any], str]] = [(values, "target")]
    for section_name, key in (("teacher", "folder"), ("judge", "source"), ("gan", "start_from")):
        places.append((values.get(section_name) or {}, key))
    parts_from = values.get("parts_from") or {}
    places += [(parts_from, part) for part in parts_from]
    return [(section, key) for section, key in places if section.get(key) is not None]


def _changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the keys of two recipes whose values differ. One that an earlier version did not write is unchanged."""
    for values in (old, new):
        for section, key in _sources(values):
            section[key] = identify_source(section[key])
        # The folder of cached features says where they are, not what they are.
        if values.get("cache"):
            del values["cache"]["folder"]
    return sorted(key for key in {**old, **new} if old.get(key, new.get(key)) != new.get(key))


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
    """Read `checkpoint.pt` without unpickling code. Returns None if there is no such file yet.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}): restore a copy, or delete it to train from the beginning"
        ) from None


def load_discriminators(folder: Path) -> dict[str, Any]:
    """Read the discriminators of another run, with their optimizer.

    Raises:
        ValueError: The folder has none.
    """
    state = load_checkpoint(folder)
    if state is None or state["gan"] is None:
        raise ValueError(f"gan.start_from: {folder} holds no run with discriminators: name the folder of one")
    return state["gan"]
