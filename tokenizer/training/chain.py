"""A recipe file of several stages that build on each other, and where each of them stands in the folder of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_yaml
from .recipe import CodecRecipe, read_recipe, recipe_from

_RESULTS = {"teacher": "teacher"}  # stage -> folder of what it leaves, `model` for all others


def read_stages(path: Path | str, run: Path) -> dict[Path, CodecRecipe]:
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
    results: dict[str, str] = {}
    recipes: dict[Path, CodecRecipe] = {}
    for name, entries in stages.items():
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: stages.{name} must be a recipe, found {entries!r}")
        resolved = _resolve(entries, results)
        if entries.get("adversary_from") in results:
            resolved["adversary_from"] = str(run / entries["adversary_from"])
        recipe = recipe_from(resolved, f"{path}: stages.{name}")
        recipes[run / name] = recipe
        results[name] = str(result_folder(run / name, recipe))
    return recipes


def result_folder(folder: Path, recipe: CodecRecipe) -> Path:
    """Where a stage that is trained in `folder` leaves its result; it exists when the stage is done."""
    return folder / _RESULTS.get(recipe.stage, "model")


def _resolve(entries: Mapping[str, Any], results: Mapping[str, str]) -> dict[str, Any]:
    """The names of earlier stages become the folders of their results."""
    resolved = dict(entries)
    for key in ("target", "teacher"):
        if key in resolved:
            resolved[key] = results.get(resolved[key], resolved[key])
    if isinstance(resolved.get("parts_from"), dict):
        resolved["parts_from"] = {part: results.get(source, source) for part, source in resolved["parts_from"].items()}
    return resolved
