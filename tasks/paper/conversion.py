"""Table 4: one-shot voice conversion. Each frame becomes the mean of its nearest neighbors in a reference recording."""

from collections.abc import Sequence

from ...data.utterance import Utterance
from ...tokenizer.waveform import resample
from ..evaluation.baselines import Baseline, unchanged
from ..evaluation.metrics.metric import RATE, EvalSample
from ..evaluation.runner import System
from ..inference.convert import convert_by_knn
from ..inference.inputs import load_waves
from .measured import REFERENCE, item_ids, measured_row
from .published import published_rows
from .rendering import Table, used_columns
from .table_config import TableConfig


def conversion_table(config: TableConfig) -> Table:
    """Return Table 4: every utterance of the first corpus in the voice of the next speaker's longest utterance.

    Raises:
        ValueError: The corpus names fewer than two speakers.
    """
    test_set, corpus = config.first_corpus
    items = config.choose(corpus)
    references = choose_references(items)

    baselines = [unchanged(REFERENCE)]
    not_convertible = []
    for baseline in config.baselines:
        if baseline.tokenizer is not None and baseline.tokenizer.codec.feature_dim is not None:
            baselines.append(baseline)
        else:
            not_convertible.append(baseline.name)

    rows = published_rows(4)
    for baseline in baselines:
        system = _conversion_system(baseline, items, references)
        results = config.evaluate([system], items, item_ids(test_set, items))
        rows.append(measured_row(baseline.name, results[system.name], config.seed))
    notes = config.notes()
    if not_convertible:
        names = ", ".join(not_convertible)
        notes.append(f"Not converted: {names}: nearest neighbors need the features of a FocalCodec.")
    return Table("Table 4: one-shot voice conversion", used_columns(rows), rows, notes)


def _conversion_system(baseline: Baseline, items: Sequence[Utterance], references: Sequence[Utterance]) -> System:
    """Return a system that converts items to the voices of references; without a codec it changes nothing."""

    def make(i: int) -> list[EvalSample]:
        source, _ = items[i].read(RATE)
        reference, _ = references[i].read(RATE)
        converted = source
        facts = {}
        if baseline.tokenizer is not None:
            source_wave, reference_wave = load_waves([source, reference], RATE, baseline.tokenizer)
            (result,) = convert_by_knn(baseline.tokenizer, [source_wave], reference_wave)
            converted = resample(result.audio, result.sampling_rate, RATE)
            facts["rtf"] = 1 / result.stats["real_time_factor"]
        # The words are compared with the source, the voice with the reference.
        return [EvalSample(converted, RATE, items[i].text or "", source, {"similarity": reference}, facts)]

    return System(f"{baseline.name}, converted", baseline.fingerprint, make)


def choose_references(items: Sequence[Utterance]) -> list[Utterance]:
    """Return for each item the longest utterance of the next speaker, in the order of their names.

    Raises:
        ValueError: There are fewer than two speakers.
    """
    longest: dict[str, Utterance] = {}
    for item in items:
        if not item.speaker:
            continue
        known = longest.get(item.speaker)
        if known is None or (item.duration() or 0) > (known.duration() or 0):
            longest[item.speaker] = item
    names = sorted(longest)
    if len(names) < 2:
        raise ValueError(f"conversion needs recordings of at least two named speakers, found {names}")
    references = []
    for item in items:
        # Items without a speaker get the voice that follows the first one.
        index = names.index(item.speaker or names[0])
        references.append(longest[names[(index + 1) % len(names)]])
    return references
