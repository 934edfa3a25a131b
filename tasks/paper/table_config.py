"""What a table is asked for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from ...data.corpus import read_corpus
from ...data.mixing.mix_config import MixConfig
from ...data.mixing.mixer import Mixer, Premixed
from ...data.utterance import Utterance
from ...tokenizer.files import load_config
from ..evaluation.baselines import Baseline, open_baseline
from ..evaluation.evaluate import choose_items, read_with_texts
from ..evaluation.metrics import Metric, load_scorers


@dataclass(frozen=True)
class TableConfig:
    """Everything that the tables' functions need; each takes what it is about.

    Args:
        codecs: names as `open_baseline` takes them.
        data: corpora with transcripts; the first one where a table is of one.
        layout: how they are laid out, as in `read_corpus`; those that bring what is heard need no recipe.
        scorers: who judges, as in `load_scorers`.
        asr, utmos: another ASR model, and a checkout of UTMOS, as there.
        limit: only so many items of each corpus, chosen by the seed; 0 for all.
        seed: of the choice and of the intervals.
        record: a .jsonl file of what was measured of each item.
        mix: recipes of noise (Tables 3, 5, 10) and of talkers (Tables 5, 10).
        noise: recordings of noise for the former.
        runs: folder of what was trained for Tables 5 and 6.
        model: a speech LM, for Tables 5 and 10.
        progress: show bars.
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
        """All items of every corpus, by its folder's name.

        Raises:
            ValueError: there is none, or one has no transcripts.
        """
        if not self.data:
            raise ValueError("this table is measured on recordings with transcripts: give --data FOLDER")
        return {path.name: read_with_texts(path, self.layout) for path in self.data}

    @property
    def first(self) -> tuple[str, list[Utterance]]:
        """The corpus of the tables that are of one: its name and all of its items."""
        return next(iter(self.corpora.items()))

    def some(self, items: list[Utterance]) -> list[Utterance]:
        """Those that are measured."""
        return choose_items(items, self.limit, self.seed)

    def metrics(self, items: Sequence[Utterance]) -> list[Metric]:
        """The judges of items, in the language that their corpus names; English, if it names none."""
        language = str(items[0].extra.get("language", "en")).lower()
        return _metrics(self.scorers, self.asr, TO_LANGUAGE_CODE.get(language, language), self.utmos)

    def mixers(self, items: list[Utterance], *kinds: str) -> list[Mixer | Premixed]:
        """What makes of a corpus the recordings that are heard, one for each recipe of these kinds (noisy, mixture).

        Of a corpus that brings them, it is what reads them.

        Talkers are drawn from the whole corpus, so that a mixture does not depend on how many are measured.

        Raises:
            ValueError: there is no recipe of these kinds.
        """
        if items[0].sources and not self.mix and Premixed(items).input_name in kinds:
            return [Premixed(items)]
        recipes = [load_config(MixConfig, path) for path in self.mix]
        recipes = [recipe for recipe in recipes if recipe.kind in kinds]
        if not recipes:
            raise ValueError(
                f"this table needs --mix, recipes of kind {' or '.join(kinds)}, which say how the recordings that are "
                "heard are made, such as configs/mini/test_enhancement.yaml and configs/mini/test_separation.yaml; or "
                "a corpus that brings them, such as --layout voicebank or libri2mix"
            )
        noises = read_corpus(self.noise) if self.noise else ()
        return [Mixer(recipe, items, noises if recipe.kind == "noisy" else ()) for recipe in recipes]


def names_of(test_set: str, rows: Sequence[Utterance], mixer: Mixer | Premixed | None = None) -> list[str]:
    """What items are called in a record: where they are from, and how they are mixed."""
    mixed = ""
    if mixer is not None:
        digest = hashlib.sha256(json.dumps(mixer.describe(), sort_keys=True).encode()).hexdigest()
        mixed = f"{mixer.input_name} {digest[:8]}/"
    return [f"{test_set}/{mixed}{row.id}" for row in rows]


@cache  # all tables share the models that judge
def _metrics(scorers: str, asr: str | None, language: str, utmos: str | None) -> list[Metric]:
    return load_scorers(scorers, asr, language, utmos)
