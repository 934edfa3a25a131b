"""Training a speech LM: a recipe, examples, a preview of what is about to be learnt, and the Trainer."""

from .build import build
from .examples import Examples, Source
from .preview import preview, render
from .recipe import Evaluation, ExtraTask, LMRecipe, LoRA, read_recipe, training_arguments
from .resuming import last_checkpoint
from .samples import Samples, WordErrors
from .trainer import train

__all__ = [
    "Evaluation",
    "Examples",
    "ExtraTask",
    "LMRecipe",
    "LoRA",
    "Samples",
    "Source",
    "WordErrors",
    "build",
    "last_checkpoint",
    "preview",
    "read_recipe",
    "render",
    "train",
    "training_arguments",
]
