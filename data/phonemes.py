"""The phonemes of a text, in the International Phonetic Alphabet, as the units that a speech LM reads.

A unit is one symbol with its prefix: "▁" at the start of a word, and the mark of primary stress before a stressed
vowel. Marks of length and secondary stress are dropped, because fewer units can be learned from less speech. Pauses are
units, too.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .text_normalization import normalize_text

# Punctuation marks that are audible as a pause, and the unit of each.
PAUSES = {",": ",", ";": ",", ":": ",", ".": ".", "!": ".", "?": "?"}
WORD_START = "▁"  # alone, it is the pause before the first word

_STRESS = "\u02c8"
_UNIT = re.compile(f"{WORD_START}?{_STRESS}?[^{WORD_START}{_STRESS}]")
_DROPPED_MARKS = dict.fromkeys(map(ord, "ːˌ̩͡ "))


def split_spoken(text: str) -> list[str]:
    """Split a text into the words that are spoken (see `text_normalization`), in lower case, and pauses.

    "A" is the name of the letter, "a" the article.
    """
    parts: list[str] = []
    for token in normalize_text(text).split():
        if token not in PAUSES:
            parts.append(token)
        # Only the first mark of several counts, and none before the first word.
        elif parts and parts[-1] not in PAUSES:
            parts.append(PAUSES[token])
    return parts


def spell_out(text: str) -> list[str]:
    """Split a text into lower-case words and pauses, as `split_spoken` does, with letters in lower case, too."""
    return list(map(str.lower, split_spoken(text)))


def text_to_units(text: str, pronounce: Callable[[str], str]) -> list[str]:
    """Convert a text to units. The first and the last unit are pauses.

    Args:
        text: the text.
        pronounce: returns the phonemes of a word.

    Raises:
        ValueError: The text contains no word.
    """
    parts = split_spoken(text)
    if PAUSES.keys() >= set(parts):
        raise ValueError(f"there is no word in {text[:100]!r}: at least one is needed")
    if parts[-1] not in PAUSES:
        parts.append(".")
    units = [WORD_START]
    for part in parts:
        if part in PAUSES:
            units.append(part)
        else:
            units += word_units(pronounce(part))
    return units


def word_units(phonemes: str) -> list[str]:
    """Return the units of a word. The first one begins with "▁"."""
    return _UNIT.findall(f"{WORD_START}{phonemes}")


def starts_word(unit: str) -> bool:
    """Return whether a unit is the first one of a word."""
    return unit.startswith(WORD_START) and unit != WORD_START


def split_units(units: Sequence[str], max_units: int) -> list[list[str]]:
    """Split the units of a long text at pauses or, where there is none, at the start of a word.

    Args:
        units: units of a text.
        max_units: highest number of units in a piece.

    Returns:
        The pieces. Each starts with the pause with which texts start.
    """
    pieces: list[list[str]] = []
    rest = list(units)
    while len(rest) > max_units:
        after_pause = None
        word_start = None
        for i in range(1, max_units + 1):
            if i < max_units and rest[i] in PAUSES:
                after_pause = i + 1
            if i > 1 and rest[i].startswith(WORD_START):
                word_start = i
        # A single word may be longer than a piece; it is cut anywhere.
        end = after_pause or word_start or max_units
        pieces.append(rest[:end])
        rest = [WORD_START, *rest[end:]]
    return [*pieces, rest]


def build_lexicon(texts: Iterable[str], language: str = "en-us") -> dict[str, str]:
    """Look up the phonemes of all words in some texts with espeak-ng.

    The pronunciation of a word depends on its context. A word gets the phonemes that are most frequent in the texts.

    Args:
        texts: the texts.
        language: name of the language in espeak-ng.

    Returns:
        The phonemes of each word. Words without phonemes are left out, and so are those in other scripts than most
        words, of which espeak-ng would say the names of the letters.

    Raises:
        ImportError: The extra is not installed.
    """
    sentences = []
    counts: dict[str, Counter[str]] = {}
    for text in texts:
        words = [part for part in split_spoken(text) if part not in PAUSES]
        sentences.append(words)
        for word in words:
            counts[word] = Counter()
    spoken_sentences = _run_espeak(list(map(" ".join, sentences)), language)
    for words, spoken in zip(sentences, spoken_sentences, strict=True):
        phonemes = spoken.split()
        # espeak-ng runs some words together. Phonemes of such a sentence cannot be assigned to words.
        if len(words) == len(phonemes):
            for word, word_phonemes in zip(words, phonemes, strict=True):
                # espeak-ng may take the letter for the article.
                if word != "A":
                    counts[word][word_phonemes] += 1
    unresolved = [word for word, counter in counts.items() if not counter]
    for word, word_phonemes in zip(unresolved, _run_espeak(unresolved, language), strict=True):
        counts[word][word_phonemes] += 1
    scripts = Counter(script_of(word[0]) for word in counts)
    lexicon = {}
    for word, counter in sorted(counts.items()):
        most_frequent, _ = counter.most_common(1)[0]
        without_marks = most_frequent.translate(_DROPPED_MARKS)
        # Parentheses mark that espeak-ng changed the language.
        is_readable = script_of(word[0]) == scripts.most_common(1)[0][0] and "(" not in without_marks
        if without_marks and is_readable:
            lexicon[word] = without_marks
    return lexicon


def script_of(letter: str) -> str:
    """Return the name of the script of a letter, such as LATIN."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]


def _run_espeak(texts: Sequence[str], language: str) -> list[str]:
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError:
        raise ImportError("the phonemes of a corpus need an extra:\n  pip install 'focallm[phonemes]'") from None
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    # It would warn that espeak-ng runs some words together, which `build_lexicon` expects.
    logger = logging.getLogger("phonemizer")
    logger.setLevel(logging.ERROR)
    return EspeakBackend(language, with_stress=True, logger=logger).phonemize(texts, strip=True)
