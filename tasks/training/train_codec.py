"""`focallm train-codec`: train the stages of a recipe on a corpus, one after the other."""

import json
from collections.abc import Sequence
from pathlib import Path

from ...data.corpus import read_corpus, summarize_corpus
from ...data.utterance import Utterance
from ...tokenizer.configs import read_json
from ...tokenizer.files import write_whole
from ...tokenizer.runs import locked
from ...tokenizer.training.config import read_stages, result_folder
from ...tokenizer.training.trackers import Tracker, check_tracker
from ...tokenizer.training.trainer import train_codec
from ..evaluation.metrics import Resemblyzer, load_asr


def train_stages(
    recipe: Path,
    corpus: Path,
    run: Path,
    only: str | None,
    asr: str | None,
    quiet: bool,
    report_to: Tracker = "tensorboard",
) -> str:
    """Train all stages of a recipe, or only one; see `focallm train-codec --help` for the arguments.

    Returns:
        A sentence that says how to use the result.

    Raises:
        OSError: Another process trains in the same folder.
        ValueError: As in `read_stages` and `train_codec`; or there is no stage `only`, or the run was trained on
            another corpus.
        ImportError: The package of the tracker is missing.
    """
    check_tracker(report_to)
    # The recipe is read first, because listing a corpus can take minutes.
    stages = read_stages(recipe, run)
    if only is not None:
        if run / only not in stages:
            names = [folder.name for folder in stages]
            raise ValueError(f"--only takes one of the stages of {recipe}, {names}, found {only!r}")
        stages = {run / only: stages[run / only]}
    utterances = read_corpus(corpus)
    _write_corpus_summary(utterances, run)
    paths = [Path(str(utterance.audio)) for utterance in utterances]
    texts = [utterance.text for utterance in utterances]
    transcribe = load_asr(asr) if asr else None
    embed = Resemblyzer().vector if asr else None
    for folder, config in stages.items():
        with locked(folder):
            train_codec(config, paths, folder, quiet, texts, transcribe, embed, report_to)
    result = result_folder(folder, config)
    if config.stage == "teacher":
        return f"{result} holds the teacher: name it as teacher.folder of a quantizer, decoder or joint stage"
    return f"{result} holds the codec: focallm encode RECORDING tokens.npz --codec {result}"


def _write_corpus_summary(utterances: Sequence[Utterance], run: Path) -> None:
    """Write `data.json`, which the model card shows; a run continues only on the same corpus."""
    path = run / "data.json"
    found = summarize_corpus(utterances)
    expected = read_json(path) if path.exists() else found
    if found["sha256"] != expected["sha256"]:
        raise ValueError(
            f"{run} was trained on another corpus of {expected['utterances']} utterances, {expected['hours']} h; this "
            f"one has {found['utterances']}, {found['hours']} h. Choose another folder for the run, or "
            "pass the same corpus"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found, indent=1).encode())
