"""Table 4: one-shot voice conversion, by the nearest neighbours of each frame among those of the reference."""

from collections.abc import Sequence

from ...data.utterance import Utterance
from ...tokenizer import resample
from ..evaluation.baselines import RATE, Baseline, unchanged
from ..evaluation.evaluate import evaluate_systems
from ..evaluation.metrics import EvalSample
from ..evaluation.systems import System
from ..inference.convert import convert_by_knn
from ..inference.inputs import load_waves
from .columns import columns_of
from .measured import measured
from .published import published
from .rendering import Table
from .resynthesis import REFERENCE, notes
from .table_config import TableConfig, names_of

WITHOUT = "Not converted: {}: nearest neighbours need the features of a FocalCodec."


def conversion_table(config: TableConfig) -> Table:
    """Every utterance of the first corpus in the voice of the longest one of the next speaker.

    Raises:
        ValueError: the first corpus names fewer than two speakers.
    """
    test_set, corpus = config.first
    items = config.some(corpus)
    voices = other_voices(items)
    able = [one for one in config.baselines if _can_convert(one)]
    as_it_is = unchanged(REFERENCE)

    def system(baseline: Baseline) -> System:
        def make(i: int) -> list[EvalSample]:
            audio, reference = items[i].read(RATE)[0], voices[i].read(RATE)[0]
            again, facts = audio, {}
            if baseline.tokenizer is not None:
                waves = load_waves([audio, reference], RATE, baseline.tokenizer)
                (result,) = convert_by_knn(baseline.tokenizer, waves[:1], waves[1])
                again = resample(result.audio, result.sampling_rate, RATE)
                facts = {"rtf": 1 / result.stats["real_time_factor"]}
            return [EvalSample(again, RATE, items[i].text or "", audio, {"similarity": reference}, facts)]

        return System(f"{baseline.name}, converted", baseline.fingerprint, make)

    ids = names_of(test_set, items)
    systems = [system(one) for one in [as_it_is, *able]]
    found = evaluate_systems(systems, ids, config.metrics(items), config.seed, config.record, config.progress)
    rows = published(4)
    for baseline, lines in zip([as_it_is, *able], found.values(), strict=True):
        rows.append(measured(baseline.name, lines, config.seed))
    unable = [one.name for one in config.baselines if not _can_convert(one)]
    remarks = [WITHOUT.format(", ".join(unable))] if unable else []
    return Table("Table 4: one-shot voice conversion", columns_of(rows), rows, [*notes(config), *remarks])


def other_voices(items: Sequence[Utterance]) -> list[Utterance]:
    """For each item the longest utterance of the next speaker, in the order of their names.

    Raises:
        ValueError: fewer than two speakers.
    """
    longest: dict[str, Utterance] = {}
    for item in items:
        known = longest.get(item.speaker or "")
        if item.speaker and (known is None or (item.duration() or 0) > (known.duration() or 0)):
            longest[item.speaker] = item
    names = sorted(longest)
    if len(names) < 2:
        raise ValueError(f"conversion needs recordings of at least two named speakers, found {names}")
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [longest[following[item.speaker or names[0]]] for item in items]


def _can_convert(baseline: Baseline) -> bool:
    return baseline.tokenizer is not None and baseline.tokenizer.codec.feature_dim is not None
