"""Speech language models: tokens to tokens."""

from .generation import Generation, LengthWindow, Sampling
from .model import SpeechLM
from .vocabulary import Vocabulary

__all__ = ["Generation", "LengthWindow", "Sampling", "SpeechLM", "Vocabulary"]
