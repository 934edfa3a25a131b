"""Which metrics judge: those of the paper, those that need no network, or those that need nothing at all."""

from . import asr as recogniser
from .dnsmos import DNSMOS
from .fidelity import PESQ, STOI, Distances
from .metric import Metric
from .utmos import PUBLISHED, UTMOS
from .voice import Resemblyzer, XVectors
from .words import Words


def load_scorers(
    name: str, whisper: str | None = None, language: str | None = "en", utmos: str | None = None
) -> list[Metric]:
    """-> metrics, whose models are loaded when the first sound needs them

    Args:
        name: "published": those of the FocalCodec paper. "offline": what can stand in for them without a network, of
            packages that bring their weights. "mel": distances only.
        whisper: another recogniser, as in `load_recogniser`; with "mel", words are counted only if it is given.
        language: of what is said, as Whisper calls it; None: Whisper guesses.
        utmos: a checkout of UTMOS's repository, as in `UTMOS`; "offline" has none of its own.

    Raises:
        ValueError: another name.
    """
    own = [Words(whisper, language)] if whisper else []
    published = own or [Words(recogniser.PUBLISHED, language)]
    stand_in = own or [Words(recogniser.BUNDLED, language, stands_in_for=recogniser.PUBLISHED)]
    scorers: dict[str, list[Metric]] = {
        "published": [*published, UTMOS(utmos or PUBLISHED), DNSMOS(), XVectors(), PESQ(), STOI(), Distances()],
        "offline": [*stand_in, UTMOS(utmos), DNSMOS(limit=30), Resemblyzer(), PESQ(), STOI(), Distances()],
        "mel": [*own, Distances()],
    }
    if name not in scorers:
        raise ValueError(f"the scorers are called {', '.join(scorers)}, found {name!r}")
    return scorers[name]
