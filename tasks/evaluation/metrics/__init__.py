"""Metrics of speech and of codecs.

A `Metric` loads its model when the first sample needs it, measures samples in batches, and names the checkpoint that
produced the scores. `load_scorers` gives the sets of metrics that users choose from.
"""

from .asr import BUNDLED_ASR, PUBLISHED_ASR, load_asr
from .codec import Cost, code_figures, codec_cost
from .fidelity import PESQ, STOI, Distances
from .metric import EvalSample, Metric
from .quality import DNSMOS, PUBLISHED_UTMOS, UTMOS, DistillMOS
from .similarity import Resemblyzer, XVectors
from .words import Phonemes, Words, word_counter

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

SCORERS = ("published", "offline", "mel")
_OFFLINE_DNSMOS_ITEMS = 30  # DNSMOS takes longer than the other offline metrics together


def load_scorers(
    name: str, asr: str | None = None, language: str | None = "en", utmos: str | None = None
) -> list[Metric]:
    """Return a set of metrics. Each loads its model when the first sample needs it.

    Args:
        name: "published": the metrics of the FocalCodec paper, with PESQ and STOI. "offline": replacements from
            packages that contain their weights, and DistillMOS and phonemes. "mel": distances only, and words if
            `asr` is given.
        asr: ASR model to use instead of that of the set, as in `load_asr`.
        language: Language of the speech, as a code of Whisper; None lets Whisper detect it.
        utmos: Checkout of UTMOS's repository, as in `UTMOS`; without it, "offline" skips UTMOS.

    Raises:
        ValueError: The name is unknown.
    """
    if name == "published":
        words = Words(asr or PUBLISHED_ASR, language)
        return [words, UTMOS(utmos or PUBLISHED_UTMOS), DNSMOS(), XVectors(), PESQ(), STOI(), Distances()]
    if name == "offline":
        words = Words(asr, language) if asr else Words(BUNDLED_ASR, language, stands_in_for=PUBLISHED_ASR)
        dnsmos = DNSMOS(limit=_OFFLINE_DNSMOS_ITEMS)
        similarity = Resemblyzer()
        return [words, UTMOS(utmos), dnsmos, similarity, PESQ(), STOI(), Distances(), DistillMOS(), Phonemes()]
    if name == "mel":
        return [Words(asr, language), Distances()] if asr else [Distances()]
    raise ValueError(f"unknown scorers {name!r}: choose one of {', '.join(SCORERS)}")
