"""From a token store to a trained speech LM."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed

from ..data.plan import describe_codec
from ..data.token_store import TokenStore
from ..lm import LengthWindow, SpeechLM, Vocabulary
from ..lm.training import LMRecipe, fits, panel, read_recipe, train
from ..tokenizer import AudioTokenizer
from .template import TEMPLATES, Template

Row = dict[str, Any]


def train_task(task: str, store: Path, run: Path, recipe_path: Path | None, codec: str, quiet: bool = False) -> str:
    """Train `run/model` on a token store; -> what came out, in a line.

    Raises:
        ValueError: an unknown task, a store of another codec, or nothing to learn from.
    """
    if task not in TEMPLATES:
        raise ValueError(f"no task is called {task!r}: choose from {list(TEMPLATES)}")
    recipe = read_recipe(recipe_path) if recipe_path else LMRecipe()
    tokens = TokenStore(store)
    audio_tokenizer = AudioTokenizer.from_pretrained(codec)
    _check_codec(tokens, audio_tokenizer, codec)
    learning, held_out = (_rows(part) for part in tokens.split(recipe.validation_fraction, recipe.seed))
    vocabulary = Vocabulary.characters(
        [f"{row['speaker']} {row['text']}" for row in learning], audio_tokenizer.vocab_size
    )
    set_seed(recipe.seed)
    lm = SpeechLM.from_config(recipe.model, audio_tokenizer, vocabulary, task)
    seconds = [row["num_samples"] / audio_tokenizer.sampling_rate for row in learning]
    lm.info = replace(
        lm.info,
        audio_tokenizer="mini" if codec == "mini" else lm.info.audio_tokenizer,
        length_window=LengthWindow.learn([len(row["text"]) for row in learning], seconds),
        voices=tuple(name for name, _ in Counter(row["speaker"] for row in learning).most_common()),
    )
    examples, dropped = _examples(TEMPLATES[task], vocabulary, learning, recipe.max_length)
    validation, _ = _examples(TEMPLATES[task], vocabulary, held_out, recipe.max_length)
    if not len(examples) or not len(validation):
        raise ValueError(
            f"{store} gives {len(examples)} examples to learn from and {len(validation)} to validate on: it needs more "
            f"utterances, or max_length ({recipe.max_length} ids) is too small"
        )
    if not quiet:
        print(panel(lm, examples, dropped, tokens.unigram_entropy()))
    loss, unigram = train(lm, examples, validation, recipe, run, quiet)["eval_loss"], tokens.unigram_entropy()
    return (
        f"{run}/model: validation loss {loss:.3f} nats (unigram {unigram:.3f}); try it:\n"
        f"  focallm speak 'Hello there.' --model {run}/model"
    )


def _check_codec(tokens: TokenStore, audio_tokenizer: AudioTokenizer, name: str) -> None:
    made, given = tokens.manifest["codec"], describe_codec(audio_tokenizer)
    differing = [key for key in given if key != "name" and given[key] != made[key]]
    if differing:
        raise ValueError(
            f"{tokens.folder} was made by the codec {made['name']}, which differs from {name} in {differing}: give "
            "--codec as you gave it to focallm tokenize, or tokenize anew"
        )


def _rows(part: Dataset) -> list[Row]:
    """Rows with a text; a corpus that names no speakers has one, called "speaker"."""
    return [{**row, "speaker": row["speaker"] or "speaker"} for row in part if row["text"]]


def _examples(template: Template, vocabulary: Vocabulary, rows: list[Row], max_length: int) -> tuple[Dataset, int]:
    """-> the examples that fit, and how many do not"""
    made = [template.example(vocabulary, row) for row in rows]
    kept = [example for example in made if fits(example, max_length)]
    return Dataset.from_list(kept), len(made) - len(kept)
