"""Speech language models: tokens to tokens."""

from .generation import Generation
from .length import LengthWindow
from .model import SpeechLM
from .sampling import Sampling
from .vocabulary import Vocabulary

__all__ = ["Generation", "LengthWindow", "Sampling", "SpeechLM", "Vocabulary"]
