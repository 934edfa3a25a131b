"""What is measured of speech: words, quality, voices. Models are loaded when they are asked for."""

from .quality import load_quality
from .recogniser import load_recogniser
from .similarity import load_similarity
from .word_errors import MISSING, word_counter

__all__ = ["MISSING", "load_quality", "load_recogniser", "load_similarity", "word_counter"]
