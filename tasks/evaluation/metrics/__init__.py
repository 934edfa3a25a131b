"""Metrics of speech and of codecs."""

from .codec import Cost, code_figures, codec_cost
from .fidelity import PESQ, STOI, Distances
from .metric import EvalSample, Metric
from .quality import DNSMOS, PUBLISHED_UTMOS, UTMOS
from .similarity import Resemblyzer, XVectors
from .words import BUNDLED_ASR, PUBLISHED_ASR, Words, load_asr, word_counter

__all__ = [
    "Cost",
    "EvalSample",
    "Metric",
    "Resemblyzer",
    "code_figures",
    "codec_cost",
    "load_asr",
    "load_scorers",
    "word_counter",
]


def load_scorers(
    name: str, asr: str | None = None, language: str | None = "en", utmos: str | None = None
) -> list[Metric]:
    """-> metrics, whose models are loaded when the first sound needs them

    Args:
        name: "published": those of the FocalCodec paper. "offline": what can stand in for them without a network, of
            packages that bring their weights. "mel": distances only.
        asr: another ASR model, as in `load_asr`; with "mel", words are counted only if it is given.
        language: of what is said, as Whisper calls it; None: Whisper guesses.
        utmos: a checkout of UTMOS's repository, as in `UTMOS`; "offline" has none of its own.

    Raises:
        ValueError: another name.
    """
    own = [Words(asr, language)] if asr else []
    published = own or [Words(PUBLISHED_ASR, language)]
    stand_in = own or [Words(BUNDLED_ASR, language, stands_in_for=PUBLISHED_ASR)]
    scorers: dict[str, list[Metric]] = {
        "published": [*published, UTMOS(utmos or PUBLISHED_UTMOS), DNSMOS(), XVectors(), PESQ(), STOI(), Distances()],
        "offline": [*stand_in, UTMOS(utmos), DNSMOS(limit=30), Resemblyzer(), PESQ(), STOI(), Distances()],
        "mel": [*own, Distances()],
    }
    if name not in scorers:
        raise ValueError(f"the scorers are called {', '.join(scorers)}, found {name!r}")
    return scorers[name]
