"""Train and test a probe: a small network that predicts words, speakers or emotions from a codec's tokens."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ....data.token_store import describe_codec
from ....lm.embeddings import code_vectors
from ....tokenizer.audio_tokenizer import AudioTokenizer
from ....tokenizer.configs import load_config, read_json
from ....tokenizer.files import write_whole
from ....tokenizer.runs import locked
from ....tokenizer.training.checkpoint import write_machine
from ..results import bootstrap
from .data import LABEL_COLUMNS, CharacterTarget, ClassTarget, Target, read_splits
from .probe_config import ProbeConfig
from .training import CHECKPOINT, Collator, Probe, best_epoch, error_rate, evaluate_probe, train_probe

logger = logging.getLogger(__name__)


def probe(task: str, store: Path, run: Path, recipe: Path | None, codec: str, quiet: bool = False) -> str:
    """Train a probe on a token store, test it, and write `result.json` into the folder of the run.

    A stopped run continues after its last epoch.

    Args:
        task: a key of `LABEL_COLUMNS`.
        store: a token store with the labels of the task.
        run: folder of the run.
        recipe: a YAML file with the fields of `ProbeConfig`; without it, the defaults.
        codec: the codec that made the store.
        quiet: show no progress bar.

    Returns:
        One line with the result.

    Raises:
        OSError: Another process trains a probe in this folder.
        ValueError: The task is unknown, the store does not fit, or the folder holds another run.
    """
    if task not in LABEL_COLUMNS:
        raise ValueError(f"{', '.join(LABEL_COLUMNS)} can be probed, found {task!r}")
    config = load_config(ProbeConfig, recipe) if recipe else ProbeConfig()
    audio_tokenizer = AudioTokenizer.from_pretrained(codec)
    splits = read_splits(task, store, config, audio_tokenizer, codec)
    target: Target
    if task == "asr":
        target = CharacterTarget()
        _check_texts(target, splits, audio_tokenizer)
    else:
        target = ClassTarget(sorted(set(splits["train"]["label"])))
    with locked(run):
        codec_hash = describe_codec(audio_tokenizer)["weights_sha256"]
        _write_run_settings(run, task, config, codec_hash, splits)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        write_machine(run, device, num_processes=1)

        # The initial weights depend only on the recipe and the codec.
        torch.manual_seed(config.seed)
        if config.input == "codes":
            model = Probe(config, target.num_classes, target.is_pooled, code_vectors(audio_tokenizer.codec))
        else:
            _, feature_dim = np.shape(splits["train"][0]["input"])
            model = Probe(config, target.num_classes, target.is_pooled, None, feature_dim)
        collator = Collator(target, audio_tokenizer.num_codebooks, device)
        log = train_probe(model, collator, splits, config, run, quiet)

        _, items = evaluate_probe(model, collator, splits["test"], config.batch_size)
        errors = []
        totals = []
        for item in items:
            errors.append(item["errors"])
            totals.append(item["total"])
        low, high = bootstrap(errors, totals, config.seed)
        result = {
            "task": task,
            "codec": codec,
            "codec_hash": codec_hash,
            "split": "test",
            "n": len(items),
            "seed": config.seed,
            "rate": error_rate(items),
            "low": low,
            "high": high,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "classes": target.num_classes if isinstance(target, ClassTarget) else None,
            "rows": {split: len(rows) for split, rows in splits.items()},
            "epoch": best_epoch(log),
            "epochs": len(log),
            "seconds": round(sum(entry["seconds"] for entry in log), 1),
            "config": asdict(config),
            "items": items,
        }
        write_whole(run / "result.json", json.dumps(result, indent=1).encode())
        return f"{run}/result.json: {_describe(result)}"


def _check_texts(target: CharacterTarget, splits: Mapping[str, Dataset], audio_tokenizer: AudioTokenizer) -> None:
    """Warn about training texts that are too long for CTC.

    Raises:
        ValueError: A text has no letters.
    """
    too_long = 0
    for split, rows in splits.items():
        for row_id, text, num_samples in zip(rows["id"], rows["label"], rows["num_samples"], strict=True):
            classes = target.encode(text)
            if len(classes) == 0:
                raise ValueError(
                    f"The text of {row_id} in the {split} split has no word: {text!r}. Leave it out of the corpus."
                )
            # CTC needs a blank between two equal characters.
            num_repeated = int((classes[1:] == classes[:-1]).sum())
            num_frames = int(audio_tokenizer.codec.num_tokens(num_samples))
            if split == "train" and len(classes) + num_repeated > num_frames:
                too_long += 1
    if too_long:
        logger.warning(
            "%d of %d texts have more characters than frames; the probe does not learn from them",
            too_long,
            len(splits["train"]),
        )


def _write_run_settings(
    run: Path, task: str, config: ProbeConfig, codec_hash: str, splits: Mapping[str, Dataset]
) -> None:
    """Write everything that the weights of a probe depend on into `recipe.json`.

    Raises:
        ValueError: The folder holds a run with other settings.
    """
    settings: dict[str, Any] = {"task": task, **asdict(config), "codec": codec_hash}
    # A finished run may continue for more epochs.
    del settings["epochs"]
    for split, rows in splits.items():
        labels = list(zip(rows["id"], rows["label"], strict=True))
        settings[f"rows of {split}"] = hashlib.sha256(json.dumps(labels).encode()).hexdigest()

    path = run / "recipe.json"
    text = json.dumps(settings, indent=1)
    if path.is_file() and (run / CHECKPOINT).is_file():
        previous = read_json(path)
        # Tuples become lists in JSON.
        current = json.loads(text)
        changed = sorted(key for key, value in current.items() if previous.get(key) != value)
        if changed:
            raise ValueError(
                f"{run} holds a run that differs in {changed}. Choose another folder, or restore the recipe, the codec "
                "and the store of that run to continue it."
            )
    run.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _describe(result: dict[str, Any]) -> str:
    kind = "wrong words" if result["task"] == "asr" else "errors"
    return (
        f"{100 * result['rate']:.1f} % {kind} ({100 * result['low']:.1f} to {100 * result['high']:.1f}), "
        f"n = {result['n']}, {result['task']} from {result['config']['input']} of {result['codec']}, "
        f"epoch {result['epoch']} of {result['epochs']}"
    )
