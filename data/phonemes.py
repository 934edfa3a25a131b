"""How a text is said, in the units that a speech LM reads: phonemes, in the International Phonetic Alphabet.

A unit is one symbol with what stands before it: "▁" where a word begins, the mark of stress where a stressed vowel
follows. Marks of length and of secondary stress are dropped: fewer units are learnt from less speech. Pauses are units.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from num2words import num2words

PAUSES = {",": ",", ";": ",", ":": ",", ".": ".", "!": ".", "?": "?"}  # marks that are heard, and as which
START = "▁"  # where words begin; alone, the pause before the first of them
_STRESS, _APOSTROPHE = "\u02c8", "\u2019"
_TOKEN = re.compile(rf"\d[\d,]*(?:\.\d+)?|[^\W\d_]+(?:['{_APOSTROPHE}][^\W\d_]+)*|[,;:.!?]")
_UNIT = re.compile(f"{START}?{_STRESS}?[^{START}{_STRESS}]")
_DROPPED = dict.fromkeys(map(ord, "ːˌ̩͡ "))
_MISSING = "the phonemes of a corpus need an extra:\n  pip install 'focallm[phonemes]'"


def spell_out(text: str) -> list[str]:
    """Lower-case words, and the marks at which speech pauses; numbers become English words."""
    found: list[str] = []
    for token in _TOKEN.findall(text):
        if token in PAUSES:
            found += [] if not found or found[-1] in PAUSES else [PAUSES[token]]
        elif token[0].isdigit():
            found += re.findall("[a-z]+", num2words(token.replace(",", "")))
        else:
            found.append(token.lower().replace(_APOSTROPHE, "'"))
    return found


def say(text: str, pronounce: Callable[[str], str]) -> list[str]:
    """A text -> its units; the first and the last are pauses.

    Args:
        pronounce: the phonemes of a word.

    Raises:
        ValueError: no word in the text.
    """
    parts = spell_out(text)
    if all(part in PAUSES for part in parts):
        raise ValueError(f"there is no word in {text!r}: give at least one")
    units = [START]
    for part in parts if parts[-1] in PAUSES else [*parts, "."]:
        units += [part] if part in PAUSES else _UNIT.findall(f"{START}{pronounce(part)}")
    return units


def cut(units: Sequence[str], most: int) -> list[list[str]]:
    """The units of a long text -> pieces of at most so many, where there is a pause or at least a word's beginning.

    Each piece begins with the pause that texts begin with.
    """
    pieces, rest = list[list[str]](), list(units)
    while len(rest) > most:
        pauses = [i + 1 for i in range(1, most) if rest[i] in PAUSES]
        words = [i for i in range(2, most + 1) if rest[i].startswith(START)]
        end = (pauses or words or [most])[-1]
        pieces.append(rest[:end])
        rest = [START, *rest[end:]]
    return [*pieces, rest]


def learn_lexicon(texts: Iterable[str], language: str = "en-us") -> dict[str, str]:
    """The words of texts, each with the phonemes that espeak-ng gives it most often among its neighbours there.

    Raises:
        ImportError: the extra is not installed.
    """
    lines = [[word for word in spell_out(text) if word not in PAUSES] for text in texts]
    heard: dict[str, Counter[str]] = {word: Counter() for line in lines for word in line}
    for line, said in zip(lines, _phonemes([" ".join(line) for line in lines], language), strict=True):
        sounds = said.split()
        if len(line) == len(sounds):  # some words are run together
            for word, sound in zip(line, sounds, strict=True):
                heard[word][sound] += 1
    alone = [word for word, sounds in heard.items() if not sounds]
    for word, sound in zip(alone, _phonemes(alone, language), strict=True):
        heard[word][sound] += 1
    likeliest = {word: sounds.most_common(1)[0][0].translate(_DROPPED) for word, sounds in sorted(heard.items())}
    return {word: sound for word, sound in likeliest.items() if sound}


def _phonemes(texts: Sequence[str], language: str) -> list[str]:
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError:
        raise ImportError(_MISSING) from None
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend(language, with_stress=True).phonemize(texts, strip=True)
