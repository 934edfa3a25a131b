"""`focallm train-codec`: from a recipe and a corpus to the folder of a run, stage after stage."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ...data.corpus import read_corpus, summarize_corpus
from ...data.utterance import Utterance
from ...tokenizer.files import write_whole
from ...tokenizer.training import read_stages, result_folder, train_codec
from ..evaluation.metrics import Resemblyzer, load_asr

logger = logging.getLogger(__name__)


def train_stages(recipe: Path, corpus: Path, run: Path, only: str | None, asr: str | None, quiet: bool) -> str:
    """-> what to do with the result; see `focallm train-codec --help` for the arguments.

    Raises:
        ValueError: as `read_stages` and `train_codec`, there is no stage of the name `only`, or the run has learnt from
            another corpus.
    """
    stages = read_stages(recipe, run)  # mistakes are found before the corpus is listed
    if only is not None:
        if run / only not in stages:
            raise ValueError(f"--only names a stage of {recipe}, {[folder.name for folder in stages]}, found {only!r}")
        stages = {run / only: stages[run / only]}
    items = read_corpus(corpus)
    judges = (load_asr(asr), Resemblyzer().vector) if asr else (None, None)
    paths, texts = [Path(str(item.audio)) for item in items], [item.text for item in items]
    _remember_corpus(items, run)
    for folder, values in stages.items():
        if len(stages) > 1 and result_folder(folder, values).exists():
            logger.info("%s is done", folder)
            continue
        train_codec(values, paths, folder, quiet, texts, *judges)
    result = result_folder(folder, values)
    if values.stage == "teacher":
        return f"{result} holds the teacher: name it in the recipe of a quantizer, decoder or joint stage"
    return f"{result} holds the codec: focallm encode RECORDING tokens.npz --codec {result}"


def _remember_corpus(items: Sequence[Utterance], run: Path) -> None:
    """Write `data.json`, for the card and for whoever continues."""
    path, now = run / "data.json", summarize_corpus(items)
    before = json.loads(path.read_text()) if path.exists() else now
    if before["sha256"] != now["sha256"]:
        raise ValueError(
            f"{run} has learnt from another corpus, {before['utterances']} utterances, {before['hours']} h; this one "
            f"has {now['utterances']}, {now['hours']} h. Name another run, or give it the same list of utterances"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1).encode())
