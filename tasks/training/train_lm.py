"""From token stores to a trained speech LM."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.forced_alignment import read_lexicon
from ...lm import LengthWindow, SpeechLM
from ...lm.training import Examples, ExtraTask, LMRecipe, Source, WordErrors, build, preview, read_recipe, train
from ...tokenizer import AudioTokenizer
from ..evaluation.metrics import load_asr, word_counter
from .sources import Part, read_part

logger = logging.getLogger(__name__)

# What to call with the model.
_TRY = {
    "tts": "speak 'Hello there.'",
    "zero-shot": "speak 'Hello there.' --reference VOICE --reference-text 'What it says.'",
    "tts-aligned": "speak 'Hello there.'",
    "zero-shot-aligned": "speak 'Hello there.' --reference VOICE",
    "se": "enhance NOISY clean.wav",
    "se-features": "enhance NOISY clean.wav",
    "ss": "separate MIXTURE talker.wav",
    "ss-features": "separate MIXTURE talker.wav",
    "vc": "convert SPEECH VOICE out.wav",
    "asr": "transcribe SPEECH",
    "continuation": "continue SPEECH out.wav",
}


def train_task(task: str, store: Path, run: Path, recipe_path: Path | None, codec: str, quiet: bool = False) -> str:
    """Train `run/model` on a token store; -> what came out, in a line.

    Raises:
        ValueError: an unknown task, a store of another codec, or nothing to learn from.
    """
    recipe = read_recipe(recipe_path) if recipe_path else LMRecipe()
    words = word_errors(recipe.evaluate.asr) if recipe.evaluate.asr else None
    audio_tokenizer = AudioTokenizer.from_pretrained(codec)
    parts = [
        read_part(part, recipe, audio_tokenizer, codec) for part in (ExtraTask(task, str(store)), *recipe.extra_tasks)
    ]
    lm = build(recipe, audio_tokenizer, list(_texts(parts)), _feature_size(parts))
    _describe(lm, parts, codec)
    train_dataset = Examples(
        [Source(part.template, part.train_dataset, part.repeat) for part in parts],
        lm.vocabulary,
        recipe.max_length,
        recipe.packing,
        recipe.prompt_dropout,
        recipe.seed,
        recipe.code_noise,
        recipe.trainer.get("dataloader_num_workers", 0),
    )
    eval_dataset = Examples(
        [Source(part.template, part.eval_dataset) for part in parts], lm.vocabulary, recipe.max_length, recipe.packing
    )
    _report(parts, train_dataset, eval_dataset, recipe, store)
    if not quiet and first_process():
        print(preview(lm, train_dataset, recipe.base is None, run / "preview"))
    metrics = train(lm, train_dataset, eval_dataset, recipe, run, words, quiet)
    said = f"{run}/model: validation loss {metrics['eval_loss']:.3f} nats (unigram {train_dataset.entropy:.3f})"
    return f"{said}; try it:\n  focallm {_TRY[task]} --model {run}/model" if task in _TRY else said


def first_process() -> bool:
    """Of several processes that train together, the first one speaks."""
    return os.environ.get("RANK", "0") == "0"


def word_errors(asr: str) -> WordErrors:
    """A function that counts the wrong words of a recording, with a recogniser in the folder `asr`."""
    count, recognise = word_counter(), load_asr(asr)
    return lambda audio, rate, text: count(text, recognise(audio, rate))


def _texts(parts: list[Part]) -> Iterator[str]:
    """All that the vocabulary has to spell."""
    for part in parts:
        fields = {segment.field for segment in part.template.segments if segment.kind == "text"} - {"reference_text"}
        for field in sorted(fields):
            yield from map(str, part.train_dataset[field])
        if part.template.target.kind == "aligned":
            yield from map("".join, part.train_dataset["units"])


def _feature_size(parts: list[Part]) -> int | None:
    """Width of the features; two widths cannot be read by one model.

    Raises:
        ValueError: tasks with features of different widths.
    """
    fields = [
        (part, segment.field) for part in parts for segment in part.template.segments if segment.kind == "features"
    ]
    sizes = {np.shape(part.train_dataset[0][field])[1] for part, field in fields if len(part.train_dataset)}
    if len(sizes) > 1:
        raise ValueError(f"the stores have features of widths {sorted(sizes)}: make them with one codec")
    return sizes.pop() if sizes else None


def _describe(lm: SpeechLM, parts: list[Part], codec: str) -> None:
    """What the model will say about itself."""
    templates = {part.template.name: part.template for part in parts}
    lm.info = replace(
        lm.info,
        templates=tuple(templates.values()),
        audio_tokenizer="mini" if codec == "mini" else lm.info.audio_tokenizer,
    )
    aligned = [part for part in parts if part.template.target.kind == "aligned" and len(part.train_dataset)]
    if aligned:
        longest = max(int(max(frames)) for part in aligned for frames in part.train_dataset["frames"])
        lm.info = replace(lm.info, longest_unit_s=longest / lm.audio_tokenizer.frame_rate)
        lm.lexicon = {
            word: sound
            for store in dict.fromkeys(part.store for part in aligned)
            for word, sound in read_lexicon(store).items()
        }
    texts = [part for part in parts if part.template.target.kind == "codes" and _reads(part, "text")]
    spoken = [*texts, *aligned]
    if any(len(part.train_dataset) for part in spoken):
        samples = [float(number) for part in spoken for number in part.train_dataset["num_samples"]]
        seconds = [number / lm.audio_tokenizer.sampling_rate for number in samples]
        window = LengthWindow.learn([len(text) for part in spoken for text in part.train_dataset["text"]], seconds)
        named = [
            name
            for part in spoken
            if _reads(part, "speaker")
            for name in part.train_dataset["speaker"]
            for _ in range(part.repeat)
        ]
        voices = Counter(map(str, named)).most_common()
        lm.info = replace(lm.info, length_window=window, voices=tuple(name for name, _ in voices))


def _reads(part: Part, field: str) -> bool:
    return any(segment.field == field for segment in part.template.segments)


def _report(parts: list[Part], train_dataset: Examples, eval_dataset: Examples, recipe: LMRecipe, store: Path) -> None:
    """Say what was left out; with nothing left, stop.

    Raises:
        ValueError: nothing to learn from, or nothing to validate on.
    """
    reasons = []
    for part, stats in zip(parts, train_dataset.stats, strict=True):
        left_out = {**part.left_out, f"are longer than max_length ({recipe.max_length} ids)": stats.too_long}
        for reason, count in left_out.items():
            if count:
                reasons.append(f"{part.template.name}: {count} rows {reason}")
                logger.warning("%s and are left out", reasons[-1])
    if not len(train_dataset) or not len(eval_dataset):
        raise ValueError(
            f"{store} gives {len(train_dataset.members)} examples to learn from and {len(eval_dataset.members)} to "
            f"validate on ({'; '.join(reasons) or 'nothing was left out'}): it needs more utterances that can be used"
        )
