"""A training run of the codec, from a recipe to a model folder; stopped at any step, it continues where it was."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..focalcodec import FocalCodecModel
from .build import Stage, build_stage
from .chain import result_folder
from .checkpoint import load_adversary, load_checkpoint, remember_recipe, save_checkpoint
from .config import CodecTrainingConfig
from .dataset import Batch, Clips, Rates, make_batch
from .logging import Record
from .machine import remember_machine
from .recordings import open_recordings
from .stages import TeacherStage
from .teacher import Teacher
from .trainer import Trainer
from .validation import Embed, Recogniser, Validation

logger = logging.getLogger(__name__)

_LOG_EVERY = 50  # steps


def train_codec(
    recipe: CodecTrainingConfig,
    paths: Sequence[Path],
    folder: Path,
    quiet: bool = False,
    texts: Sequence[str | None] | None = None,
    recognise: Recogniser | None = None,
    embed: Embed | None = None,
) -> FocalCodecModel | Teacher:
    """Train one stage on audio files; the model is left in `folder/model`, logs and the checkpoint beside it.

    Under `accelerate launch` the processes share each batch, and learn what one would.

    Args:
        recipe: what to train and how.
        paths: audio files; the last `recipe.validation_files` of them only measure.
        folder: of the run. A run that stands there already is continued, if its recipe is the same.
        quiet: no progress bars.
        texts: what is said in each file. Stage teacher learns from files that have one, and leaves `folder/teacher`.
        recognise: audio (T,) and rate -> text; adds to evaluations how many words decoding changes (dWER).
        embed: audio (T,) and rate -> a unit vector of the voice; adds how similar decoded voices are.

    Raises:
        ValueError: the folder holds a run of another recipe, or there are too few files.
    """
    gpu = torch.cuda.is_available()
    cpu = not gpu and not torch.backends.mps.is_available()  # unless told, processes without a GPU stay strangers
    accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if recipe.bf16 and gpu else "no")
    paths, said = _with_texts(recipe, paths, texts)
    torch.manual_seed(recipe.seed)
    stage = build_stage(recipe)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        remember_recipe(recipe, folder)
        remember_machine(folder, accelerator.device, accelerator.num_processes)
    rates = _rates(stage)
    clips, eval_dataset = _open(recipe, paths, said, rates, accelerator, quiet)
    trainer = Trainer(stage, recipe, accelerator, clips.epoch_steps)
    if trainer.adversary is not None and recipe.adversary_from:
        trainer.adversary.load_state_dict(load_adversary(Path(recipe.adversary_from)))
    begin = load_checkpoint(folder, trainer)
    codebook = 0 if isinstance(stage, TeacherStage) else stage.model.config.codebook_size
    validation = Validation(eval_dataset, rates.spoken, codebook, recognise, embed)
    logger.info("%.2f h of audio, step %d of %d", clips.seconds / 3600, begin, recipe.steps)
    _learn(trainer, clips, validation, Record(folder, rates.spoken, not accelerator.is_main_process), begin, quiet)
    result = stage.learning()
    with trainer.eval_mode():
        if accelerator.is_main_process:
            result.save_pretrained(result_folder(folder, recipe))
    return result


def _learn(trainer: Trainer, clips: Clips, validation: Validation, record: Record, begin: int, quiet: bool) -> None:
    """All steps from `begin` on."""
    recipe, main = trainer.recipe, trainer.accelerator.is_main_process
    steps = range(begin, recipe.steps)
    batches = DataLoader(clips, batch_size=None, sampler=steps, num_workers=recipe.workers)
    bar = tqdm(batches, recipe.stage, recipe.steps, initial=begin, disable=quiet or not main)
    for step, batch in zip(steps, bar, strict=True):
        metrics: dict[str, Any] = {**trainer.step(batch, step)}
        done, last = step + 1, step + 1 == recipe.steps
        evaluated = last or done % recipe.evaluate_every == 0
        if evaluated:
            measured, outcomes = validation(trainer)
            trainer.schedule.observe(measured["validation_loss"])
            record.show(done, outcomes)
            metrics |= measured
        if evaluated or done % _LOG_EVERY == 0:
            record.write(done, metrics)
        if main and (last or done % recipe.checkpoint_every == 0):
            save_checkpoint(record.folder, trainer, done)
    trainer.accelerator.wait_for_everyone()
    record.close()


def _with_texts(
    recipe: CodecTrainingConfig, paths: Sequence[Path], texts: Sequence[str | None] | None
) -> tuple[Sequence[Path], list[str]]:
    """-> the files to use and their texts; stage teacher uses those that have one"""
    said = [text or "" for text in texts or [None] * len(paths)]
    if recipe.stage == "teacher":
        kept = [i for i, text in enumerate(said) if text.strip()]
        if len(kept) <= recipe.validation_files:
            raise ValueError(
                f"stage teacher learns from transcripts: {len(kept)} of the {len(paths)} files have one, not more than "
                f"validation_files ({recipe.validation_files})"
            )
        paths, said = [paths[i] for i in kept], [said[i] for i in kept]
    if len(paths) <= recipe.validation_files:
        raise ValueError(f"{len(paths)} audio files are not more than the {recipe.validation_files} for validation")
    return paths, said


def _rates(stage: Stage) -> Rates:
    if isinstance(stage, TeacherStage):
        teacher = stage.teacher.config
        return Rates(teacher.sampling_rate, teacher.sampling_rate, teacher.hop_length)
    config = stage.model.config
    return Rates(config.sampling_rate, config.output_sampling_rate, config.samples_per_token)


def _open(
    recipe: CodecTrainingConfig,
    paths: Sequence[Path],
    texts: Sequence[str],
    rates: Rates,
    accelerator: Accelerator,
    quiet: bool,
) -> tuple[Clips, list[Batch]]:
    """-> clips to learn from, and the held-out recordings, whole"""
    cut = len(paths) - recipe.validation_files
    progress: Callable[..., Any] | None = None if quiet or not recipe.in_memory else tqdm
    learning, said = open_recordings(paths[:cut], rates.spoken, recipe.in_memory, texts[:cut], progress)
    clips = Clips(learning, recipe, rates, said, accelerator.process_index, accelerator.num_processes)
    measuring, said = open_recordings(paths[cut:], rates.spoken, texts=texts[cut:])
    limit = round(recipe.max_seconds * rates.spoken)
    if recipe.stage == "teacher":  # a transcript belongs to the whole
        whole = [i for i, recording in enumerate(measuring) if len(recording) <= limit]
        measuring, said = [measuring[i] for i in whole], [said[i] for i in whole]
    if not measuring:
        raise ValueError(
            f"none of the {recipe.validation_files} validation_files is as short as max_seconds ({recipe.max_seconds})"
        )
    batches = [make_batch([r.read(0, limit)], rates, (text,)) for r, text in zip(measuring, said, strict=True)]
    return clips, batches
