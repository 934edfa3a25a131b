"""Noisy, overlapping and disguised speech: every draw follows from the recipe's seed, the utterance and the copy."""

from .mixer import Mixer
from .recipe import MixRecipe, read_recipe

__all__ = ["MixRecipe", "Mixer", "read_recipe"]
