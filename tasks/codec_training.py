"""`focallm train-codec`: from a recipe and a corpus to the folder of a run, stage after stage."""

import json
import logging
from pathlib import Path

from ..data.corpora import read_corpus
from ..data.summary import summarise
from ..tokenizer.files import write_whole
from ..tokenizer.training import read_stages, result_folder, train_codec
from .evaluation import load_recogniser
from .metrics import load_similarity

logger = logging.getLogger(__name__)


def train_stages(recipe: Path, corpus: Path, run: Path, only: str | None, scorer: str | None, quiet: bool) -> str:
    """-> what to do with the result; see `focallm train-codec --help` for the arguments.

    Raises:
        ValueError: as `read_stages` and `train_codec`, or there is no stage of the name `only`.
    """
    stages = read_stages(recipe, run)  # mistakes are found before the corpus is listed
    if only is not None:
        if run / only not in stages:
            raise ValueError(f"--only names a stage of {recipe}, {[folder.name for folder in stages]}, found {only!r}")
        stages = {run / only: stages[run / only]}
    items = read_corpus(corpus)
    judges = (load_recogniser(scorer), load_similarity()) if scorer else (None, None)
    paths, texts = [Path(str(item.audio)) for item in items], [item.text for item in items]
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / "data.json", json.dumps(summarise(items), indent=1).encode())
    for folder, values in stages.items():
        if len(stages) > 1 and result_folder(folder, values).exists():
            logger.info("%s is done", folder)
            continue
        train_codec(values, paths, folder, quiet, texts, *judges)
    result = result_folder(folder, values)
    if values.stage == "teacher":
        return f"{result} holds the teacher: name it in the recipe of a quantizer, decoder or joint stage"
    return f"{result} holds the codec: focallm encode RECORDING tokens.npz --codec {result}"
