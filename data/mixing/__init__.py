"""Noisy, overlapping and disguised speech, mixed here or by others.

Every draw follows from the recipe's seed, the utterance and the copy.
"""

from .mixer import Mixer
from .premixed import Premixed
from .recipe import MixRecipe, read_recipe

__all__ = ["MixRecipe", "Mixer", "Premixed", "read_recipe"]
