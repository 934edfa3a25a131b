"""Tables 2 and 3: what codecs leave of clean and of noisy speech."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from ...data.utterance import Utterance
from ..contenders import RATE, Contender
from ..measurement import System, judge
from ..metrics import Sound
from .columns import columns_of
from .measured import measured
from .published import published
from .rendering import Row, Table
from .request import Request

REFERENCE = "Reference"


def clean_table(request: Request) -> Table:
    """Table 2: every codec on every corpus, beside the recordings themselves."""
    rows = published(2)
    for name, items in request.corpora.items():
        audio = lru_cache(maxsize=1)(lambda i, items=items: items[i].read(RATE)[0])
        rows += judged(request, name, items, audio, audio, [unchanged(REFERENCE), *request.contenders])
    return Table("Table 2: clean speech resynthesised", columns_of(rows), rows, notes(request))


def noisy_table(request: Request) -> Table:
    """Table 3: every codec on noisy recordings, judged against the clean ones; beside clean and noisy themselves."""
    rows = published(3)
    for name, items in request.corpora.items():
        for mixer in request.mixers(items, "noisy"):
            example = lru_cache(maxsize=1)(lambda i, mixer=mixer: mixer.example(mixer.rows[i], RATE))
            clean = lambda i, example=example: example(i).target  # noqa: E731
            heard = lambda i, example=example: example(i).heard  # noqa: E731
            rows += judged(request, name, mixer.rows, clean, clean, [unchanged(REFERENCE)])
            rows += judged(request, name, mixer.rows, heard, clean, [unchanged("noisy"), *request.contenders])
    return Table("Table 3: noisy speech resynthesised", columns_of(rows), rows, notes(request))


def judged(
    request: Request,
    test_set: str,
    items: Sequence[Utterance],
    heard: Callable[[int], np.ndarray],
    clean: Callable[[int], np.ndarray],
    contenders: Sequence[Contender],
) -> list[Row]:
    """A row for every contender."""

    def system(contender: Contender) -> System:
        def make(i: int) -> list[Sound]:
            again, facts = contender.through(heard(i))
            return [Sound(again, RATE, items[i].text or "", clean(i), {"similarity": clean(i)}, facts)]

        return System(contender.name, contender.key, make)

    ids = [f"{test_set}/{item.id}" for item in items]
    lines = judge(
        list(map(system, contenders)), ids, request.metrics(items), request.seed, request.record, request.progress
    )
    return [measured(name, own, request.seed, test_set=test_set) for name, own in lines.items()]


def unchanged(name: str) -> Contender:
    """What does nothing."""
    return Contender(name, "", lambda audio: (audio, {}))


def notes(request: Request) -> list[str]:
    """What stands below a table that was measured."""
    n = ", ".join(f"{name} {len(items)}" for name, items in request.corpora.items())
    metrics = [metric for items in request.corpora.values() for metric in request.metrics(items)]
    judges = sorted({f"{metric.name}: {metric.checkpoint}" for metric in metrics})
    return [f"n: {n}; seed {request.seed}; 95 % bootstrap intervals.", *judges]
