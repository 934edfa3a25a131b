"""Experiment trackers that accelerate and transformers can report to."""

from importlib.util import find_spec
from typing import Literal

Tracker = Literal["tensorboard", "wandb", "trackio", "none"]
_INSTALL = {"tensorboard": "'focallm[train]'", "wandb": "wandb", "trackio": "trackio"}


def check_tracker(name: str) -> None:
    """Raise an ImportError if the package of a tracker is missing. Trackers that are not known here are not checked."""
    if name in _INSTALL and find_spec(name) is None:
        raise ImportError(f"training logs need {name}: pip install {_INSTALL[name]}, or --report-to none")
