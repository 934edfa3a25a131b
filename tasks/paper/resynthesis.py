"""Tables 2 and 3: what codecs leave of clean and of noisy speech."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from ...data.utterance import Utterance
from ..evaluation.baselines import RATE, Baseline, unchanged
from ..evaluation.evaluate import evaluate_systems
from ..evaluation.results import ItemResult
from ..evaluation.systems import baseline_system
from .columns import columns_of
from .measured import measured
from .published import published
from .rendering import Row, Table
from .table_config import TableConfig, names_of

REFERENCE = "Reference"


def clean_table(config: TableConfig) -> Table:
    """Table 2: every codec on every corpus, beside the recordings themselves."""
    rows = published(2)
    for name, items in config.corpora.items():
        rows += resynthesised(config, name, items, [unchanged(REFERENCE), *config.baselines])
    return Table("Table 2: clean speech resynthesised", columns_of(rows), rows, notes(config))


def noisy_table(config: TableConfig) -> Table:
    """Table 3: every codec on noisy recordings, judged against the clean ones; beside clean and noisy themselves."""
    rows = published(3)
    for name, items in config.corpora.items():
        for mixer in config.mixers(items, "noisy"):
            chosen = config.some(mixer.rows)
            ids = names_of(name, chosen, mixer)
            example = lru_cache(maxsize=1)(lambda i, mixer=mixer, chosen=chosen: mixer.example(chosen[i], RATE))
            clean = lambda i, example=example: example(i).target  # noqa: E731
            heard = lambda i, example=example: example(i).input_audio  # noqa: E731
            found = judged(config, chosen, ids, clean, clean, [unchanged(REFERENCE)])
            found |= judged(config, chosen, ids, heard, clean, [unchanged("noisy"), *config.baselines])
            rows += [measured(system, lines, config.seed, test_set=name) for system, lines in found.items()]
    return Table("Table 3: noisy speech resynthesised", columns_of(rows), rows, notes(config))


def resynthesised(
    config: TableConfig, test_set: str, items: list[Utterance], baselines: Sequence[Baseline]
) -> list[Row]:
    """A row for what every baseline leaves of a corpus."""
    chosen = config.some(items)
    audio = lru_cache(maxsize=1)(lambda i: chosen[i].read(RATE)[0])
    found = judged(config, chosen, names_of(test_set, chosen), audio, audio, baselines)
    return [measured(name, lines, config.seed, test_set=test_set) for name, lines in found.items()]


def judged(
    config: TableConfig,
    items: Sequence[Utterance],
    ids: Sequence[str],
    heard: Callable[[int], np.ndarray],
    clean: Callable[[int], np.ndarray],
    baselines: Sequence[Baseline],
) -> dict[str, list[ItemResult]]:
    """-> the lines of every baseline, by its name"""
    systems = [baseline_system(one, items, heard, clean) for one in baselines]
    return evaluate_systems(systems, ids, config.metrics(items), config.seed, config.record, config.progress)


def notes(config: TableConfig) -> list[str]:
    """What stands below a table that was measured."""
    n = ", ".join(f"{name} {len(config.some(items))}" for name, items in config.corpora.items())
    metrics = [metric for items in config.corpora.values() for metric in config.metrics(items)]
    judges = sorted({f"{metric.name}: {metric.checkpoint}" for metric in metrics})
    return [f"n: {n}; seed {config.seed}; 95 % bootstrap intervals.", *judges]
