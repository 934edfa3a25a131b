"""Wrong words, of a text or of what was to be heard, between texts that Whisper's normaliser has been over."""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ....tokenizer import resample
from .asr import MISSING, Recogniser, load_recogniser, recogniser_name
from .metric import RATE, Metric
from .sample import Line, Sound


class Words(Metric):
    """How many words were heard wrongly, of how many; both are added up over items.

    `errors` of `words` against the text (word error rate), and `dwer_errors` of `dwer_words` against what is heard of
    the target (dWER: what a system does to the words). `heard` is the transcript.

    Args:
        source: as in `load_recogniser`.
        language: of what is said, as Whisper calls it; None: Whisper guesses.
        stands_in_for: a model that is not there, for the record.
    """

    name = "words"

    def __init__(self, source: str, language: str | None = "en", stands_in_for: str = "") -> None:
        self.source, self.language, self.stands_in_for = source, language, stands_in_for
        self._known: dict[str, str] = {}  # many systems start from one target, mixtures are judged for each talker

    @property
    def checkpoint(self) -> str:
        """The recogniser, its version, its language, and what it stands for."""
        stands = f" (stand-in for {self.stands_in_for})" if self.stands_in_for else ""
        return f"{recogniser_name(self.source)}, greedy, {self.language or 'any language'}{stands}"

    def fits(self, sound: Sound) -> bool:
        """Whether it is known what is to be heard; of a sound without samples nothing is."""
        return bool(sound.text) or sound.target is not None

    def measure(self, sounds: Sequence[Sound]) -> list[Line]:
        """The transcript of each, and its wrong words."""
        targets = [(sound.target, sound.rate) for sound in sounds if sound.target is not None]
        texts = iter(self._hear([*((sound.audio, sound.rate) for sound in sounds), *targets]))
        lines: list[Line] = [{"heard": next(texts)} for _ in sounds]
        for sound, line in zip(sounds, lines, strict=True):
            if sound.text:
                line["errors"], line["words"] = self.count(sound.text, line["heard"])
            if sound.target is not None:
                line["dwer_errors"], line["dwer_words"] = self.count(next(texts), line["heard"])
        return lines

    def _hear(self, sounds: Sequence[tuple[np.ndarray, int]]) -> list[str]:
        keys = [hashlib.sha256(wave.tobytes()).hexdigest() if len(wave) else "" for wave, _ in sounds]
        self._known[""] = ""
        new = {key: sound for key, sound in zip(keys, sounds, strict=True) if key not in self._known}
        if new:
            waves = [resample(np.asarray(wave, np.float32), rate, RATE) for wave, rate in new.values()]
            self._known.update(zip(new, self._recogniser.hear(waves), strict=True))
        return [self._known[key] for key in keys]

    @cached_property
    def count(self) -> Callable[[str, str], tuple[int, int]]:
        """As `word_counter`, for this recogniser and its language."""
        return word_counter(self.language, self._recogniser.spellings)

    @cached_property
    def _recogniser(self) -> Recogniser:
        return load_recogniser(self.source, self.language)


def _joined_digits(words: str) -> str:
    """A number said digit by digit: Whisper writes 7-3-2 or 7-3-2555, its normaliser makes 732 of "seven three two"."""
    number = r"(?<![\d-])(?:\d(?:-\d)+|\d+(?:-\d+){2,})(?![\d-])"  # in two groups of digits, it could be a range
    return re.sub(number, lambda digits: digits[0].replace("-", ""), words)


def word_counter(
    language: str | None = "en", spellings: dict[str, str] | None = None
) -> Callable[[str, str], tuple[int, int]]:
    """-> a function of what was to be said and what was heard, which gives the wrong words and all that were to be said

    Args:
        language: Whisper's normaliser for English, or its basic one for every other language.
        spellings: British words -> American ones.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise ImportError(MISSING) from None
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalise: Any = EnglishTextNormalizer(spellings or {}) if language == "en" else BasicTextNormalizer()

    def count(text: str, heard: str) -> tuple[int, int]:
        wanted, got = (normalise(_joined_digits(words)) for words in (text, heard))
        found = jiwer.process_words(wanted or "-", got)
        missed = found.substitutions + found.deletions
        return missed + found.insertions, missed + found.hits

    return count
