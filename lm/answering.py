"""How a task is answered where nobody says otherwise."""

from dataclasses import replace

from .model import SpeechLM
from .sampling import Sampling
from .templates import Template

TEXT_RATE = 30  # ids of text per second of speech: more than anybody speaks, in characters
_GREEDY = Sampling(temperature=0.0)
_FAITHFUL = Sampling(temperature=0.6, top_p=0.9)  # greedy, a talker who pauses is silent ever after
_CLEAR = Sampling(temperature=0.3, top_p=0.9)  # the text is given unit by unit: what is left to choose is how it sounds


def usual_sampling(lm: SpeechLM, template: Template) -> Sampling:
    """The likeliest text; speech is drawn, the more freely the less of it is given.

    Where it is given frame by frame, as another recording or by an aligned text, nothing is drawn if codes are bits;
    units of an aligned text then last as long as is most usual, which is understood best (docs/lab-notes.md).
    """
    if template.target.kind == "text":
        return _GREEDY
    given = {segment.kind for segment in template.segments[:-1]}
    if template.target.kind != "aligned" and (not given or "text" in given):
        return Sampling()
    if template.target.kind == "aligned":
        return replace(_GREEDY, bitwise=True) if lm.code_bits else _CLEAR
    return replace(_FAITHFUL, bitwise=lm.code_bits > 0)


def text_window(seconds: float) -> tuple[int, int]:
    """Fewest and most ids of text for so much speech."""
    return 0, 20 + round(TEXT_RATE * seconds)
