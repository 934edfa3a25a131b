"""Tables 2 and 3: what codecs leave of clean and of noisy speech."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from ...data.utterance import Utterance
from ..evaluation.baselines import RATE, Contender, heard_through, unchanged
from ..evaluation.metrics import Line
from ..evaluation.results import judge
from .columns import columns_of
from .measured import measured
from .published import published
from .rendering import Row, Table
from .request import Request, names_of

REFERENCE = "Reference"


def clean_table(request: Request) -> Table:
    """Table 2: every codec on every corpus, beside the recordings themselves."""
    rows = published(2)
    for name, items in request.corpora.items():
        rows += resynthesised(request, name, items, [unchanged(REFERENCE), *request.contenders])
    return Table("Table 2: clean speech resynthesised", columns_of(rows), rows, notes(request))


def noisy_table(request: Request) -> Table:
    """Table 3: every codec on noisy recordings, judged against the clean ones; beside clean and noisy themselves."""
    rows = published(3)
    for name, items in request.corpora.items():
        for mixer in request.mixers(items, "noisy"):
            chosen = request.some(mixer.rows)
            ids = names_of(name, chosen, mixer)
            example = lru_cache(maxsize=1)(lambda i, mixer=mixer, chosen=chosen: mixer.example(chosen[i], RATE))
            clean = lambda i, example=example: example(i).target  # noqa: E731
            heard = lambda i, example=example: example(i).heard  # noqa: E731
            found = judged(request, chosen, ids, clean, clean, [unchanged(REFERENCE)])
            found |= judged(request, chosen, ids, heard, clean, [unchanged("noisy"), *request.contenders])
            rows += [measured(system, lines, request.seed, test_set=name) for system, lines in found.items()]
    return Table("Table 3: noisy speech resynthesised", columns_of(rows), rows, notes(request))


def resynthesised(
    request: Request, test_set: str, items: list[Utterance], contenders: Sequence[Contender]
) -> list[Row]:
    """A row for what every contender leaves of a corpus."""
    chosen = request.some(items)
    audio = lru_cache(maxsize=1)(lambda i: chosen[i].read(RATE)[0])
    found = judged(request, chosen, names_of(test_set, chosen), audio, audio, contenders)
    return [measured(name, lines, request.seed, test_set=test_set) for name, lines in found.items()]


def judged(
    request: Request,
    items: Sequence[Utterance],
    ids: Sequence[str],
    heard: Callable[[int], np.ndarray],
    clean: Callable[[int], np.ndarray],
    contenders: Sequence[Contender],
) -> dict[str, list[Line]]:
    """-> the lines of every contender, by its name"""
    systems = [heard_through(one, items, heard, clean) for one in contenders]
    return judge(systems, ids, request.metrics(items), request.seed, request.record, request.progress)


def notes(request: Request) -> list[str]:
    """What stands below a table that was measured."""
    n = ", ".join(f"{name} {len(request.some(items))}" for name, items in request.corpora.items())
    metrics = [metric for items in request.corpora.values() for metric in request.metrics(items)]
    judges = sorted({f"{metric.name}: {metric.checkpoint}" for metric in metrics})
    return [f"n: {n}; seed {request.seed}; 95 % bootstrap intervals.", *judges]
