"""Corpora as they are published: one reader each, from a folder to its utterances."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..utterance import Utterance
from .iemocap import read_iemocap
from .librimix import read_librimix
from .librispeech import read_librispeech, read_libritts
from .mls import read_mls
from .vctk import read_vctk
from .voicebank import read_voicebank

LAYOUTS: dict[str, Callable[[Path], list[Utterance]]] = {
    "iemocap": read_iemocap,
    "libri1mix": partial(read_librimix, talkers=1),
    "libri2mix": partial(read_librimix, talkers=2),
    "libri3mix": partial(read_librimix, talkers=3),
    "librispeech": read_librispeech,
    "libritts": read_libritts,
    "mls": read_mls,
    "vctk": read_vctk,
    "voicebank": read_voicebank,
}
