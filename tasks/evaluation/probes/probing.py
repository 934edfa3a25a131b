"""From a token store to an error rate: the codes that a codec made are read by a small network, and it is tested."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ....data.shards import describe_codec
from ....lm.embeddings import code_vectors
from ....tokenizer import AudioTokenizer
from ....tokenizer.files import write_whole
from ....tokenizer.training.machine import remember_machine
from ..results import bootstrap
from .model import Probe
from .probe_config import ProbeConfig, read_recipe
from .splits import TRUTH, read_splits
from .targets import Classes, Letters, Target
from .training import CHECKPOINT, Reader, best_epoch, error_rate, judge, learn

logger = logging.getLogger(__name__)


def probe(task: str, store: Path, run: Path, recipe_path: Path | None, codec: str, quiet: bool = False) -> str:
    """Train a probe on a token store, test it, and write `run/result.json`; -> what came out, in a line.

    A run that was stopped continues after its last epoch.

    Args:
        task: a key of `TRUTH`.
        store: with what the task needs.
        run: folder of the run.
        recipe_path: a YAML file; the defaults of `ProbeConfig` without it.
        codec: the codec that made the store.
        quiet: no progress bar.

    Raises:
        ValueError: an unknown task, a store that does not fit, or a run that differs.
    """
    if task not in TRUTH:
        raise ValueError(f"{', '.join(TRUTH)} can be probed, found {task!r}")
    recipe = read_recipe(recipe_path) if recipe_path else ProbeConfig()
    audio_tokenizer = AudioTokenizer.from_pretrained(codec)
    splits = read_splits(task, store, recipe, audio_tokenizer, codec)
    target: Target = Letters() if task == "asr" else Classes(sorted(set(splits["train"]["truth"])))
    if isinstance(target, Letters):
        _check_texts(target, splits, audio_tokenizer)
    codec_hash = describe_codec(audio_tokenizer)["weights_sha256"]
    _remember(run, task, recipe, codec_hash, splits)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remember_machine(run, device, processes=1)
    model = _build(recipe, target, splits, audio_tokenizer)
    reader = Reader(target, audio_tokenizer.num_codebooks, device)
    log = learn(model, reader, splits, recipe, run, quiet)
    _, lines = judge(model, reader, splits["test"], recipe.batch_size)
    low, high = bootstrap([line["errors"] for line in lines], [line["total"] for line in lines], recipe.seed)
    result = {
        "task": task,
        "codec": codec,
        "codec_hash": codec_hash,
        "split": "test",
        "n": len(lines),
        "seed": recipe.seed,
        "rate": error_rate(lines),
        "low": low,
        "high": high,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": None if isinstance(target, Letters) else target.size,
        "rows": {split: len(rows) for split, rows in splits.items()},
        "epoch": best_epoch(log),
        "epochs": len(log),
        "seconds": round(sum(line["seconds"] for line in log), 1),
        "config": asdict(recipe),
        "items": lines,
    }
    write_whole(run / "result.json", json.dumps(result, indent=1).encode())
    return f"{run}/result.json: {_sentence(result)}"


def _sentence(result: dict[str, Any]) -> str:
    rate, low, high = (f"{100 * result[name]:.1f}" for name in ("rate", "low", "high"))
    return (
        f"{rate} % {'wrong words' if result['task'] == 'asr' else 'errors'} ({low} to {high}), n = {result['n']}, "
        f"{result['task']} from {result['config']['input']} of {result['codec']}, epoch {result['epoch']} of "
        f"{result['epochs']}"
    )


def _build(recipe: ProbeConfig, target: Target, splits: dict[str, Dataset], audio_tokenizer: AudioTokenizer) -> Probe:
    """The same recipe and codec give the same weights."""
    torch.manual_seed(recipe.seed)
    if recipe.input == "codes":
        return Probe(recipe, target.size, target.whole, code_vectors(audio_tokenizer))
    return Probe(recipe, target.size, target.whole, None, np.shape(splits["train"][0]["input"])[1])


def _check_texts(letters: Letters, splits: dict[str, Dataset], audio_tokenizer: AudioTokenizer) -> None:
    """Every text has letters; say how many have more than CTC can find in their frames.

    Raises:
        ValueError: a text without letters.
    """
    crowded = 0
    for split, rows in splits.items():
        for name, text, samples in zip(rows["id"], rows["truth"], rows["num_samples"], strict=True):
            target = letters.encode(text)
            if not len(target):
                raise ValueError(f"the text of {name} ({split}) has no word: {text!r}; leave it out of the corpus")
            repeated = int((target[1:] == target[:-1]).sum())  # CTC needs a blank between two of the same
            crowded += split == "train" and len(target) + repeated > int(audio_tokenizer.codec.num_tokens(samples))
    if crowded:
        logger.warning(
            "%d of %d texts have more letters than frames: nothing is learnt from them", crowded, len(splits["train"])
        )


def _remember(run: Path, task: str, recipe: ProbeConfig, codec_hash: str, splits: dict[str, Dataset]) -> None:
    """Write `run/recipe.json`: all that decides about a probe's weights, but how long it learns.

    Raises:
        ValueError: the folder holds a run that differs.
    """
    rows = {f"rows of {split}": _hash(rows) for split, rows in splits.items()}
    now: dict[str, Any] = {"task": task, **asdict(recipe), "codec": codec_hash, **rows}
    now = json.loads(json.dumps({key: value for key, value in now.items() if key != "epochs"}))
    path = run / "recipe.json"
    before = json.loads(path.read_text()) if path.is_file() else now
    changed = sorted(key for key in now if before.get(key) != now[key])
    if changed and (run / CHECKPOINT).is_file():
        raise ValueError(
            f"{run} holds a run that differs in {changed}: name another folder, or undo the change to continue it"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1).encode())


def _hash(rows: Dataset) -> str:
    pairs = list(zip(rows["id"], rows["truth"], strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
