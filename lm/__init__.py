"""Speech language models: tokens to tokens."""

from .generation import Generation
from .info import LengthWindow, SpeechLMInfo
from .model import SpeechLM
from .processor import SpeechLMProcessor
from .sampling import Sampling
from .vocabulary import Vocabulary

__all__ = ["Generation", "LengthWindow", "Sampling", "SpeechLM", "SpeechLMInfo", "SpeechLMProcessor", "Vocabulary"]
