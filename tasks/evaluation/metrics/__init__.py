"""What is measured of speech: words, naturalness, voices, likeness to a target; of codes, and what a codec costs.

A metric is one object, `Metric`: it loads its model when the first sound needs it, judges sounds in batches, and names
what judges.
"""

from .asr import load_recogniser
from .codes import code_figures
from .cost import Cost, codec_cost
from .metric import Metric
from .sample import Line, Sound
from .scorers import load_scorers
from .voice import Resemblyzer
from .words import word_counter

__all__ = [
    "Cost",
    "Line",
    "Metric",
    "Resemblyzer",
    "Sound",
    "code_figures",
    "codec_cost",
    "load_recogniser",
    "load_scorers",
    "word_counter",
]
