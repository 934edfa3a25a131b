"""From a recipe to a model that knows nothing of the task yet."""

from collections.abc import Sequence
from dataclasses import asdict

from transformers import set_seed

from ...tokenizer import AudioTokenizer
from ..features import max_positions
from ..model import SpeechLM
from ..templates import controls
from ..vocabulary import Vocabulary
from .recipe import LMRecipe


def build(
    recipe: LMRecipe, audio_tokenizer: AudioTokenizer, texts: Sequence[str], feature_size: int | None = None
) -> SpeechLM:
    """The model of a recipe; the same recipe gives the same weights.

    Args:
        recipe: what to build.
        audio_tokenizer: the codec.
        texts: all that a fresh vocabulary has to spell.
        feature_size: width of the continuous features, where a task has some.

    Raises:
        ValueError: rows longer than the model has positions for.
    """
    set_seed(recipe.seed)
    own = controls(recipe.templates)
    if recipe.base:
        lm = SpeechLM.from_base(recipe.base, audio_tokenizer, feature_size, recipe.embeddings, own)
    else:
        vocabulary = _vocabulary(recipe.text, texts, audio_tokenizer.codebook_sizes, own)
        lm = SpeechLM.from_config(recipe.model or "mini", audio_tokenizer, vocabulary, feature_size, recipe.embeddings)
    if recipe.max_length > max_positions(lm.model):
        raise ValueError(
            f"max_length ({recipe.max_length}) exceeds the model's {max_positions(lm.model)} positions: lower it, or "
            "give a model with a larger max_position_embeddings"
        )
    return lm.add_lora(**asdict(recipe.lora)) if recipe.lora else lm


def _vocabulary(
    text: str | dict[str, int] | None, texts: Sequence[str], codebook_sizes: Sequence[int], own: Sequence[str]
) -> Vocabulary:
    if isinstance(text, dict):
        return Vocabulary.train(texts, text["pieces"], codebook_sizes, own)
    if text in (None, "characters"):
        return Vocabulary.characters(texts, codebook_sizes, own)
    return Vocabulary.from_base(text, codebook_sizes, own)
