"""Noisy, overlapping and disguised speech, mixed here or by others.

Every draw follows from the recipe's seed, the utterance and the copy.
"""

from .mix_config import MixRecipe, read_recipe
from .mixer import Mixer
from .premixed import Premixed

__all__ = ["MixRecipe", "Mixer", "Premixed", "read_recipe"]
