"""A recipe file of several stages that build on each other, and where each of them stands in the folder of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_yaml
from .config import CodecTrainingConfig, read_recipe, recipe_from


def read_stages(path: Path | str, run: Path) -> dict[Path, CodecTrainingConfig]:
    """The folder of each stage -> its recipe, in the order in which they are trained.

    A file is one recipe, trained in `run` itself, or has one key, `stages`: names -> recipes, each trained in
    `run/name`. There, `parts_from`, `target`, `teacher` and `adversary_from` may name an earlier stage, for what it
    leaves.

    Args:
        path: a YAML file.
        run: folder of the run.

    Raises:
        ValueError: as `read_recipe`, naming the stage.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or "stages" not in values:
        return {run: read_recipe(path)}
    stages = values["stages"]
    if len(values) > 1 or not isinstance(stages, dict) or not stages:
        raise ValueError(f"{path}: a file with `stages` has no other key, and names at least one; found {list(values)}")
    recipes: dict[str, CodecTrainingConfig] = {}
    for name, entries in stages.items():
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: stages.{name} must be a recipe, found {entries!r}")
        recipes[name] = recipe_from(_resolve(entries, recipes, run), f"{path}: stages.{name}")
    return {run / name: recipe for name, recipe in recipes.items()}


def result_folder(folder: Path, recipe: CodecTrainingConfig) -> Path:
    """Where a stage that is trained in `folder` leaves its result; it exists when the stage is done."""
    return folder / ("teacher" if recipe.stage == "teacher" else "model")


def _resolve(entries: Mapping[str, Any], stages: Mapping[str, CodecTrainingConfig], run: Path) -> dict[str, Any]:
    """The names of earlier stages become the folders that they leave."""

    def folder(name: Any) -> Any:
        known = isinstance(name, str) and name in stages
        return str(result_folder(run / name, stages[name])) if known else name

    resolved = {key: folder(value) if key in ("target", "teacher") else value for key, value in entries.items()}
    if isinstance(entries.get("parts_from"), dict):
        resolved["parts_from"] = {part: folder(source) for part, source in entries["parts_from"].items()}
    if str(entries.get("adversary_from")) in stages:
        resolved["adversary_from"] = str(run / entries["adversary_from"])
    return resolved
