"""How a task is answered where nobody says otherwise."""

from .sampling import Sampling
from .template import Template

TEXT_RATE = 30  # ids of text per second of speech: more than anybody speaks, in characters
_GREEDY = Sampling(temperature=0.0)
_FAITHFUL = Sampling(temperature=0.6, top_p=0.9)  # greedy, a talker who pauses is silent ever after
_CLEAR = Sampling(temperature=0.3, top_p=0.9)  # the text is given unit by unit: what is left to choose is how it sounds


def usual_sampling(template: Template) -> Sampling:
    """The likeliest text; speech is drawn, the more freely the less of it is given."""
    if template.target.kind == "text":
        return _GREEDY
    if template.target.kind == "aligned":
        return _CLEAR
    given = {segment.kind for segment in template.segments[:-1]}
    return Sampling() if not given or "text" in given else _FAITHFUL


def text_window(seconds: float) -> tuple[int, int]:
    """Fewest and most ids of text for so much speech."""
    return 0, 20 + round(TEXT_RATE * seconds)
