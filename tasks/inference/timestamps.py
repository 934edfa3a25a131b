"""When each phoneme and each word of aligned speech is spoken."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from ...data.phonemes import PAUSES, WORD_START, starts_word
from ...lm.templates import Prompt
from ...tokenizer.files import write_whole


@dataclass(frozen=True)
class Timestamp:
    """When a phoneme or a word is spoken.

    Args:
        text: A phoneme in the International Phonetic Alphabet, with its mark of stress; or for a pause its punctuation
            mark, nothing for the one before the first word. Or a word as it is spoken, such as "twenty" for 20.
        start_s: Start in seconds.
        end_s: End in seconds.
    """

    text: str
    start_s: float
    end_s: float


def phoneme_timestamps(
    prompts: Sequence[Prompt], unit_lengths: Sequence[int], codes_per_second: float
) -> list[Timestamp]:
    """Return when each phoneme and each pause is spoken. Together they cover the audio.

    Args:
        prompts: The pieces of a text; nothing is known about those that are not aligned.
        unit_lengths: Number of codes of each unit, of all units or of the first ones.
        codes_per_second: Rate of the codes.
    """
    timestamps = []
    num_codes = 0
    for unit, length in zip(_units(prompts), unit_lengths, strict=False):
        start_s = num_codes / codes_per_second
        num_codes += length
        timestamps.append(Timestamp(unit.removeprefix(WORD_START), start_s, num_codes / codes_per_second))
    return timestamps


def word_timestamps(prompts: Sequence[Prompt], phonemes: Sequence[Timestamp]) -> list[Timestamp]:
    """Return when each word is spoken whose phonemes have all ended.

    Args:
        prompts: The pieces of a text.
        phonemes: From `phoneme_timestamps`.
    """
    # First and last unit of each word. A word that is cut at the end of a piece goes on after the pause there.
    first_units: list[int] = []
    last_units: list[int] = []
    for i, unit in enumerate(_units(prompts)):
        if starts_word(unit):
            first_units.append(i)
            last_units.append(i)
        elif last_units and unit != WORD_START and unit not in PAUSES:
            last_units[-1] = i
    words = chain.from_iterable(prompt.words for prompt in prompts)
    timestamps = []
    for word, first, last in zip(words, first_units, last_units, strict=True):
        if last < len(phonemes):
            timestamps.append(Timestamp(word, phonemes[first].start_s, phonemes[last].end_s))
    return timestamps


def write_timestamps(path: Path, words: Sequence[Timestamp], phonemes: Sequence[Timestamp]) -> None:
    """Write words and phonemes into a JSON file, and create its folder.

    Raises:
        ValueError: There are none, since the model does not align text and speech.
    """
    if not phonemes:
        raise ValueError(
            "this model does not know which frames belong to which phoneme, so there are no timestamps: use a model "
            "that aligns text and speech (focallm train tts-aligned)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"words": list(map(asdict, words)), "phonemes": list(map(asdict, phonemes))}
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1).encode())


def _units(prompts: Sequence[Prompt]) -> Iterator[str]:
    return chain.from_iterable(prompt.units for prompt in prompts)
