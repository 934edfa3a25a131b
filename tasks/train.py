"""From a token store to a trained speech LM."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import set_seed

from ..data.token_store import TokenStore
from ..lm import LengthWindow, SpeechLM, Vocabulary
from ..lm.training import LMRecipe, fits, panel, read_recipe, train
from ..tokenizer import AudioTokenizer
from .template import TEMPLATES, Template


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
    learning, held_out = tokens.split(recipe.validation_fraction, recipe.seed)
    vocabulary = Vocabulary.characters(
        [f"{row['speaker']} {row['text']}" for row in learning], audio_tokenizer.vocab_size
    )
    set_seed(recipe.seed)
    lm = SpeechLM.from_config(recipe.model, audio_tokenizer, vocabulary, task)
    lm.info = replace(
        lm.info,
        audio_tokenizer="mini" if codec == "mini" else lm.info.audio_tokenizer,
        length_window=_length_window(learning, audio_tokenizer),
        voices=_voices(learning),
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
    metrics = train(lm, examples, validation, recipe, run, quiet)
    loss, unigram = metrics["eval_loss"], tokens.unigram_entropy()
    return (
        f"{run}/model: validation loss {loss:.3f} nats (unigram {unigram:.3f}); try it:\n"
        f"  focallm speak 'Hello there.' --model {run}/model"
    )


def _examples(template: Template, vocabulary: Vocabulary, rows: Dataset, max_length: int) -> tuple[Dataset, int]:
    """-> the examples that fit, and how many do not"""
    made = [template.example(vocabulary, row) for row in rows]
    kept = [example for example in made if fits(example, max_length)]
    return Dataset.from_list(kept), len(made) - len(kept)


def _length_window(rows: Dataset, audio_tokenizer: AudioTokenizer) -> LengthWindow:
    seconds = [n / audio_tokenizer.sampling_rate for n in rows["num_samples"]]
    return LengthWindow.learn([len(text) for text in rows["text"]], seconds)


def _voices(rows: Dataset) -> tuple[str, ...]:
    """Speakers, the most frequent first."""
    names = list(rows["speaker"])
    return tuple(sorted(set(names), key=lambda name: (-names.count(name), name)))
