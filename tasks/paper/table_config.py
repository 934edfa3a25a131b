"""Configuration of the tables: codecs, corpora, metrics, mixing recipes and trained models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from ...data.corpus import read_corpus
from ...data.mixing.mix_config import MixConfig
from ...data.mixing.mixer import Mixer, Premixed
from ...data.utterance import Utterance
from ...tokenizer.configs import load_config
from ..evaluation.baselines import Baseline, open_baseline
from ..evaluation.metrics import load_scorers
from ..evaluation.metrics.metric import Metric
from ..evaluation.results import ItemResult, lock_record
from ..evaluation.runner import System, choose_items, evaluate_systems, read_with_texts


@dataclass(frozen=True)
class TableConfig:
    """Configuration of the tables. Every table uses only the fields that it needs.

    Args:
        codecs: names of codecs, as in `open_baseline`.
        data: corpora with transcripts. Tables 2, 3 and 8 use all of them, the others the first.
        layout: layout of the corpora, as in `read_corpus`. Layouts with noisy or mixed recordings need no `mix`.
        scorers: the set of metrics, as in `load_scorers`.
        asr: ASR model to use instead of that of the scorers, as in `load_scorers`.
        utmos: a checkout of UTMOS, as in `load_scorers`.
        limit: measure only this many items of each corpus, chosen by the seed; 0 for all.
        seed: for the choice of items, for sampling and for the confidence intervals.
        record: a JSON lines file with the results of each item. Items in it are not measured again.
        mix: mixing recipes of kind noisy (Tables 3, 5 and 10) and mixture (Tables 5 and 10).
        noise: recordings of noise for recipes that use them.
        runs: folder of trained probes, models (Table 5) and codecs (Table 6).
        model: a speech LM for Table 10.
        progress: show progress bars.
    """

    codecs: Sequence[str] = ("mini",)
    data: Sequence[Path] = ()
    layout: str | None = None
    scorers: str = "mel"
    asr: str | None = None
    utmos: str | None = None
    limit: int = 0
    seed: int = 0
    record: Path | None = None
    mix: Sequence[Path] = ()
    noise: Path | None = None
    runs: Path | None = None
    model: str = "mini"
    progress: bool = False

    @cached_property
    def baselines(self) -> list[Baseline]:
        """The codecs, loaded once."""
        return [open_baseline(name) for name in self.codecs]

    @cached_property
    def corpora(self) -> dict[str, list[Utterance]]:
        """All utterances of every corpus, by the name of its folder.

        Raises:
            ValueError: There is no corpus, or one has no transcripts.
        """
        if not self.data:
            raise ValueError("this table is measured on recordings with transcripts: give --data FOLDER")
        corpora = {}
        for path in self.data:
            corpora[path.name] = read_with_texts(path, self.layout)
        return corpora

    @property
    def first_corpus(self) -> tuple[str, list[Utterance]]:
        """Name and utterances of the corpus that a table with only one test set uses."""
        return next(iter(self.corpora.items()))

    def choose(self, items: list[Utterance]) -> list[Utterance]:
        """Return the items that are measured: all, or `limit` of them."""
        return choose_items(items, self.limit, self.seed)

    def metrics(self, items: Sequence[Utterance]) -> list[Metric]:
        """Return the metrics for items, in the language of their corpus; English if it names none."""
        language = str(items[0].extra.get("language", "en")).lower()
        # Whisper knows languages by code; corpora may spell them out.
        return _load_scorers(self.scorers, self.asr, TO_LANGUAGE_CODE.get(language, language), self.utmos)

    def mixers(self, items: list[Utterance], *kinds: str) -> list[Mixer | Premixed]:
        """Return what turns a corpus into noisy or mixed input: one mixer per recipe of these kinds.

        A corpus that was published with noisy or mixed recordings needs no recipe. Interfering speakers are drawn from
        all items, so that a mixture does not depend on `limit`.

        Args:
            items: all utterances of a corpus.
            kinds: noisy, mixture, or both.

        Raises:
            ValueError: There is no recipe of these kinds.
        """
        if items[0].sources and not self.mix:
            premixed = Premixed(items)
            if premixed.input_name in kinds:
                return [premixed]
        mixers: list[Mixer | Premixed] = []
        for path in self.mix:
            recipe = load_config(MixConfig, path).for_evaluation()
            if recipe.kind not in kinds:
                continue
            needs_noise = recipe.kind == "noisy" and self.noise is not None
            mixers.append(Mixer(recipe, items, read_corpus(self.noise) if needs_noise else ()))
        if not mixers:
            raise ValueError(
                f"this table needs noisy or mixed input. Give --mix with recipes of kind {' or '.join(kinds)}, such as "
                "configs/mini/test_enhancement.yaml and configs/mini/test_separation.yaml, or a corpus that provides "
                "it (--layout voicebank or libri2mix)"
            )
        return mixers

    def evaluate(
        self, systems: Sequence[System], items: Sequence[Utterance], ids: Sequence[str]
    ) -> dict[str, list[ItemResult]]:
        """Measure systems item by item, except for what the record holds already.

        Args:
            systems: the systems to evaluate.
            items: the test items.
            ids: ids of the items in the record, from `item_ids`.

        Returns:
            The results of all items, by the name of the system.
        """
        with lock_record(self.record):
            return evaluate_systems(systems, ids, self.metrics(items), self.seed, self.record, self.progress)

    def notes(self) -> list[str]:
        """Return the notes below measured rows: n, the seed, and the checkpoint of each metric."""
        counts = []
        checkpoints = set()
        for name, items in self.corpora.items():
            counts.append(f"{name} {len(self.choose(items))}")
            for metric in self.metrics(items):
                checkpoints.add(f"{metric.name}: {metric.checkpoint}")
        return [f"n: {', '.join(counts)}; seed {self.seed}; 95 % bootstrap intervals.", *sorted(checkpoints)]


@cache  # All tables share the models of the metrics.
def _load_scorers(scorers: str, asr: str | None, language: str, utmos: str | None) -> list[Metric]:
    return load_scorers(scorers, asr, language, utmos)
