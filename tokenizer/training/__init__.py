"""Training of the codec: a recipe, its stages, and the run."""

from .recipe import CodecRecipe, read_recipe
from .run import train_codec

__all__ = ["CodecRecipe", "read_recipe", "train_codec"]
