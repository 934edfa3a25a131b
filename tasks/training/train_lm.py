"""Train a speech LM on token stores."""

import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.forced_alignment import read_lexicon
from ...lm.info import LengthWindow
from ...lm.model import SpeechLM
from ...lm.training.dataset import ExampleDataset, Source
from ...lm.training.recipe import ExtraTask, LMRecipe, build_model
from ...lm.training.samples import CountWordErrors
from ...lm.training.trainer import train
from ...tokenizer import AudioTokenizer
from ...tokenizer.configs import load_config
from ...tokenizer.training.trackers import Tracker
from ..definitions import find_task
from ..evaluation.metrics import load_asr, word_counter
from .task_data import TaskData, read_task_data

logger = logging.getLogger(__name__)


def train_task(
    task: str,
    store: Path,
    run: Path,
    recipe_path: Path | None,
    codec: str,
    quiet: bool = False,
    base: str | None = None,
    report_to: Tracker | None = None,
) -> str:
    """Train a model for a task, and write it to `run/model`.

    Args:
        task: A name in `TASKS`, or a task that the recipe defines.
        store: Token store of the task.
        run: Folder of the run. An interrupted run continues there, and a finished one stays as it is.
        recipe_path: A recipe; without it, the defaults of `LMRecipe` apply.
        codec: The codec that made the store.
        quiet: Show no preview and no progress bar.
        base: The model to start from, instead of that of the recipe.
        report_to: The experiment tracker, instead of that of the recipe.

    Returns:
        One line about the result, and a command to try the model.

    Raises:
        ValueError: The task is unknown, the recipe is wrong, the store is of another codec, or nothing is left to train
            on.
    """
    recipe = load_config(LMRecipe, recipe_path) if recipe_path else LMRecipe()
    if base:
        recipe = replace(recipe, base=base)
    if report_to:
        recipe = replace(recipe, trainer={**recipe.trainer, "report_to": report_to})
    count_word_errors = load_word_error_counter(recipe.evaluate.asr) if recipe.evaluate.asr else None
    audio_tokenizer = AudioTokenizer.from_pretrained(codec)

    # Data: the rows of all tasks, split and without those that a task cannot use.
    data = []
    for item in (ExtraTask(task), *recipe.extra_tasks):
        data.append(read_task_data(item, store, recipe, audio_tokenizer, codec))

    # Model: its vocabulary has to spell all texts, and it describes itself by the data.
    lm = build_model(recipe, audio_tokenizer, _vocabulary_texts(data), _feature_size(data))
    _describe_tasks(lm, data, codec)
    _describe_mixtures(lm, data)
    _describe_aligned_speech(lm, data)
    _describe_voices(lm, data)

    # Examples: templates turn the rows into ids when the trainer asks for them.
    train_sources = []
    eval_sources = []
    for item in data:
        train_sources.append(Source(item.template, item.train_dataset, item.repeat))
        eval_sources.append(Source(item.template, item.eval_dataset))
    train_dataset = ExampleDataset(
        train_sources,
        lm.vocabulary,
        recipe.max_length,
        recipe.packing,
        recipe.prompt_dropout,
        recipe.seed,
        recipe.code_noise,
        recipe.trainer.get("dataloader_num_workers", 0),
    )
    eval_dataset = ExampleDataset(eval_sources, lm.vocabulary, recipe.max_length, recipe.packing)
    _report_left_out(data, train_dataset, eval_dataset, recipe.max_length)
    metrics = train(lm, train_dataset, eval_dataset, recipe, run, count_word_errors, quiet)

    if metrics is None:
        message = f"{run}/model is finished, so nothing was trained"
    else:
        message = (
            f"{run}/model: validation loss {metrics['eval_loss']:.3f} nats (unigram "
            f"{train_dataset.unigram_entropy:.3f})"
        )
    example_command = find_task(task, recipe.templates).example_command
    if example_command:
        message += f"; try it:\n  focallm {example_command} --model {run}/model"
    return message


def first_process() -> bool:
    """Return whether this is the first of the processes that train together, the only one that prints."""
    return os.environ.get("RANK", "0") == "0"


def load_word_error_counter(asr: str) -> CountWordErrors:
    """Return a function that transcribes audio with an ASR model and counts the wrong words.

    Args:
        asr: Folder of a Whisper model.
    """
    count = word_counter()
    transcribe = load_asr(asr)
    return lambda audio, rate, text: count(text, transcribe(audio, rate))


def _vocabulary_texts(data: list[TaskData]) -> list[str]:
    """Return everything that a new vocabulary has to spell."""
    texts: list[str] = []
    for item in data:
        for field in item.definition.text_fields:
            texts += map(str, item.train_dataset[field])
        if item.template.target.kind == "aligned":
            texts += map("".join, item.train_dataset["units"])
    return texts


def _feature_size(data: list[TaskData]) -> int | None:
    """Return the width of the continuous features, or None if no task reads any.

    Raises:
        ValueError: The tasks have features of different widths, which one model cannot read.
    """
    sizes = set()
    for item in data:
        for segment in item.template.segments:
            if segment.kind == "features" and len(item.train_dataset):
                sizes.add(np.shape(item.train_dataset[0][segment.field])[1])
    if len(sizes) > 1:
        raise ValueError(f"the stores have features of widths {sorted(sizes)}: make them with one codec")
    return sizes.pop() if sizes else None


def _describe_tasks(lm: SpeechLM, data: list[TaskData], codec: str) -> None:
    """Write the tasks and the codec into the model's info."""
    templates = {}
    for item in data:
        templates[item.template.name] = item.template
    lm.info = replace(lm.info, templates=tuple(templates.values()))
    # The codec in the package needs no copy in the folder of the model.
    if codec == "mini":
        lm.info = replace(lm.info, audio_tokenizer="mini")


def _describe_mixtures(lm: SpeechLM, data: list[TaskData]) -> None:
    """Write the highest number of speakers in a mixture into the model's info."""
    counts: list[int] = []
    for item in data:
        if item.template.target.streams:
            counts += map(len, item.train_dataset[item.template.target.field])
    if counts:
        lm.info = replace(lm.info, max_speakers=max(counts))


def _describe_aligned_speech(lm: SpeechLM, data: list[TaskData]) -> None:
    """Write the longest unit into the model's info, and give it the lexicon of all stores with aligned speech."""
    longest_unit = 0
    stores = []
    for item in data:
        if item.template.target.kind == "aligned" and len(item.train_dataset):
            stores.append(item.store)
            for frames in item.train_dataset["frames"]:
                longest_unit = max(longest_unit, int(max(frames)))
    if not stores:
        return
    lm.info = replace(lm.info, longest_unit_s=longest_unit / lm.audio_tokenizer.frame_rate)
    # A base that is a speech LM has a lexicon already.
    for store in dict.fromkeys(stores):
        lm.lexicon.update(read_lexicon(store))


def _describe_voices(lm: SpeechLM, data: list[TaskData]) -> None:
    """Write the speaking rates of all texts, and the voices from the most frequent one on, into the model's info."""
    spoken = []
    aligned = []
    for item in data:
        target_kind = item.template.target.kind
        if target_kind == "aligned":
            aligned.append(item)
        elif target_kind == "codes" and "text" in item.template.fields:
            spoken.append(item)

    text_lengths: list[int] = []
    seconds: list[float] = []
    voices: Counter[str] = Counter()
    for item in [*spoken, *aligned]:
        text_lengths += map(len, item.train_dataset["text"])
        for num_samples in item.train_dataset["num_samples"]:
            seconds.append(float(num_samples) / lm.audio_tokenizer.sampling_rate)
        if "speaker" in item.template.fields:
            for speaker in item.train_dataset["speaker"]:
                voices[str(speaker)] += item.repeat
    if text_lengths:
        window = LengthWindow.from_corpus(text_lengths, seconds)
        names = sorted(voices, key=voices.__getitem__, reverse=True)
        lm.info = replace(lm.info, length_window=window, voices=tuple(names))


def _report_left_out(
    data: list[TaskData], train_dataset: ExampleDataset, eval_dataset: ExampleDataset, max_length: int
) -> None:
    """Warn about rows that were left out.

    Raises:
        ValueError: No row is left to train or to evaluate on.
    """
    reasons = []
    for item, stats in zip(data, train_dataset.stats, strict=True):
        left_out = {**item.left_out, f"are longer than max_length ({max_length} ids)": stats.num_too_long}
        for reason, count in left_out.items():
            if count:
                reasons.append(f"{item.template.name}: {count} rows {reason}")
                logger.warning("%s and are left out", reasons[-1])
    if not len(train_dataset) or not len(eval_dataset):
        raise ValueError(
            f"{data[0].store} gives {len(train_dataset.examples)} examples to train on and "
            f"{len(eval_dataset.examples)} to evaluate on ({'; '.join(reasons) or 'nothing was left out'}): it needs "
            "more utterances that can be used"
        )
