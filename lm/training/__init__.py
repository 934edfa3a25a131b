"""Training a speech LM: a recipe, examples, a panel of what is about to be learnt, and the Trainer."""

from .build import build
from .examples import Examples, Source
from .panel import panel, render
from .recipe import Also, Evaluation, LMRecipe, LoRA, read_recipe, training_arguments
from .resuming import last_checkpoint
from .samples import Samples, WordErrors
from .trainer import train

__all__ = [
    "Also",
    "Evaluation",
    "Examples",
    "LMRecipe",
    "LoRA",
    "Samples",
    "Source",
    "WordErrors",
    "build",
    "last_checkpoint",
    "panel",
    "read_recipe",
    "render",
    "train",
    "training_arguments",
]
