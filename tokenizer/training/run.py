"""A training run of the codec, from a recipe to a model folder; stopped at any step, it continues where it was."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..focalcodec import FocalCodecConfig, FocalCodecModel
from .clips import Clips
from .recipe import PARTS, CodecRecipe
from .stages import DecoderStage, QuantizerStage

logger = logging.getLogger(__name__)

_LOG_EVERY = 50  # steps


def train_codec(recipe: CodecRecipe, paths: Sequence[Path], folder: Path, quiet: bool = False) -> FocalCodecModel:
    """Train one stage on audio files; the model is left in `folder/model`, logs and the checkpoint beside it.

    Args:
        recipe: what to train and how.
        paths: audio files; the last `recipe.validation_files` of them only measure.
        folder: of the run. A run that stands there already is continued, if its recipe is the same.
        quiet: no progress bars.

    Raises:
        ValueError: the folder holds a run of another recipe, or there are too few files.
    """
    if len(paths) <= recipe.validation_files:
        raise ValueError(f"{len(paths)} audio files are not more than the {recipe.validation_files} for validation")
    folder.mkdir(parents=True, exist_ok=True)
    _remember_recipe(recipe, folder)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = _build(recipe)
    stage = (QuantizerStage if recipe.stage == "quantizer" else DecoderStage)(model, recipe)
    begin = _load_checkpoint(folder, stage, rng)
    progress = None if quiet else tqdm
    rate = model.config.sampling_rate
    clips = Clips(paths[: len(paths) - recipe.validation_files], rate, progress)
    held_out = Clips(paths[len(paths) - recipe.validation_files :], rate)
    validation = [torch.from_numpy(wave / np.float32(32768))[None] for wave in held_out.waves]
    samples = round(recipe.seconds * rate / model.config.samples_per_token) * model.config.samples_per_token
    batches = clips.batches(recipe.batch_size, samples, rng, recipe.speed)
    logger.info("%.2f h of audio, step %d of %d", clips.seconds / 3600, begin, recipe.steps)

    with SummaryWriter(str(folder / "tensorboard")) as board:
        for step in tqdm(
            range(begin, recipe.steps), desc=recipe.stage, initial=begin, total=recipe.steps, disable=quiet
        ):
            metrics = stage.step(next(batches), step)
            done, last = step + 1, step + 1 == recipe.steps
            evaluated = last or done % recipe.evaluate_every == 0
            if evaluated:
                metrics |= stage.evaluate(validation)
            if evaluated or done % _LOG_EVERY == 0:
                _log(folder, board, done, metrics)
            if last or done % recipe.checkpoint_every == 0:
                _save_checkpoint(folder, stage, rng, done)
    model.save_pretrained(folder / "model")
    return model


def _log(folder: Path, board: SummaryWriter, step: int, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        board.add_scalar(name, value, step)
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": step, "time": round(time.time(), 1), **metrics}) + "\n")


def _build(recipe: CodecRecipe) -> FocalCodecModel:
    model = FocalCodecModel(FocalCodecConfig(**recipe.model))
    for part in PARTS:
        if part in recipe.parts_from:
            trained = FocalCodecModel.from_pretrained(recipe.parts_from[part])
            getattr(model, part).load_state_dict(getattr(trained, part).state_dict())
    return model


def _remember_recipe(recipe: CodecRecipe, folder: Path) -> None:
    path, now = folder / "recipe.json", json.loads(json.dumps(vars(recipe)))
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(key for key in now if now[key] != before.get(key))
        if changed:
            raise ValueError(
                f"{folder} holds a run whose recipe differs in {changed}: name another folder, or undo the change to "
                "continue it"
            )
    path.write_text(json.dumps(now, indent=1))


def _save_checkpoint(folder: Path, stage: Any, rng: np.random.Generator, step: int) -> None:
    state = {
        "step": step,
        "stage": stage.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in stage.optimizers()],
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": json.dumps(rng.bit_generator.state),
    }
    temporary = folder / "checkpoint.part"
    torch.save(state, temporary)
    temporary.replace(folder / "checkpoint.pt")


def _load_checkpoint(folder: Path, stage: Any, rng: np.random.Generator) -> int:
    """Restore a run from its folder, where only tensors are unpickled; -> its step, 0 if it has not begun."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    stage.load_state_dict(state["stage"])
    for optimizer, saved in zip(stage.optimizers(), state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["torch_rng"])
    rng.bit_generator.state = json.loads(state["numpy_rng"])
    return state["step"]
