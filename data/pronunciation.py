"""How the words of a text are pronounced: by a lexicon, by their letters, or by the guess of a model.

A lexicon has the phonemes of words in lower case; "A" is the name of the letter.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable

from .phonemes import PAUSES, script_of, split_spoken, text_to_units
from .text_normalization import unspoken_characters

logger = logging.getLogger(__name__)

Lexicon = dict[str, str]

_LETTER_NAMES = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        "ˈeɪ bˈi sˈi dˈi ˈi ˈɛf dʒˈi ˈeɪtʃ ˈaɪ dʒˈeɪ kˈeɪ ˈɛl ˈɛm ˈɛn ˈoʊ pˈi kjˈu ˈɑɹ ˈɛs tˈi jˈu vˈi dˈʌbəlju ˈɛks "
        "wˈaɪ zˈi".split(),
        strict=True,
    )
)
# Letters that Unicode does not divide into a plain letter and an accent.
_PLAIN_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "th", "þ": "th", "ł": "l", "ı": "i"}
)
# In order: the first pattern that fits decides, at each position of a word. Sounds are those of espeak-ng in American
# English, without length marks.
_SOUNDS = [
    # Endings.
    ("(?:ti|ci|si)on", "ʃən"), ("cian$", "ʃən"), ("(?:ti|ci)ous", "ʃəs"), ("(?:ti|ci)al", "ʃəl"), ("ture", "tʃɚ"),
    ("ous$", "əs"), ("(?<=[^aeiouy])les$", "əlz"), ("(?<=[^aeiouy])le$", "əl"), ("(?<=[td])ed$", "ᵻd"),
    ("(?<=[^aeiouy]{2})ed$|(?<=[aeiou][^aeiouy])ed$", "d"), ("(?<=[sxz])es$", "ᵻz"), ("ing", "ɪŋ"), ("ism$", "ɪzəm"),
    ("able$", "əbəl"), ("(?<=.)ally$", "əli"), ("(?<=.)ey$", "i"), ("(?<=.)ie$", "i"), ("(?<=.)ies$", "iz"),
    # Consonants in groups.
    ("^kn", "n"), ("^gn", "n"), ("^wr", "ɹ"), ("^ps", "s"), ("^x", "z"), ("^rh", "ɹ"), ("^mc", "mək"), ("mb$", "m"),
    ("tch", "tʃ"), ("dge?", "dʒ"), ("sch", "sk"), ("ch", "tʃ"), ("sh", "ʃ"), ("th", "θ"), ("ph", "f"), ("gh", ""),
    ("ng$", "ŋ"), ("ng", "ŋɡ"), ("n(?=[kcxq])", "ŋ"), ("ck", "k"), ("qu", "kw"), ("wh", "w"), ("sc(?=[eiy])", "s"),
    ("cc(?=[eiy])", "ks"), ("([bcdfgklmnprstvz])(?=\\1)", ""), ("z+", "z"),
    # Vowels in groups.
    ("eigh", "eɪ"), ("igh", "aɪ"), ("gues?$", "ɡ"), ("gu(?=[eiy])", "ɡ"), ("ough", "oʊ"), ("augh", "ɔ"),
    ("air|are$", "ɛɹ"), ("eer|ear|ere$", "ɪɹ"), ("oor|our|ore$|oar", "ɔɹ"), ("ire", "aɪɚ"), ("ure$", "jʊɹ"),
    ("ar(?=[aeiou])", "æɹ"), ("er(?=[aeiou])", "ɛɹ"), ("(?<=..)or(?=s?$)", "ɚ"), ("ar", "ɑɹ"), ("or", "ɔɹ"),
    ("er", "ɚ"), ("[iu]r", "ɜ"), ("yr", "ɪɹ"), ("ee|ea", "i"), ("oo", "u"), ("oa|oe", "oʊ"), ("oi|oy", "ɔɪ"),
    ("ow$", "oʊ"), ("ou|ow", "aʊ"), ("au|aw", "ɔ"), ("ai|ay|ei|ey", "eɪ"), ("ie", "i"), ("eu|ew|ue|ui", "u"),
    ("al(?=[kmd])", "ɔl"),
    # A vowel before one consonant and a silent e is long.
    ("a(?=[^aeiouywx]es?$)", "eɪ"), ("e(?=[^aeiouywx]es?$)", "i"), ("[iy](?=[^aeiouwx]es?$)", "aɪ"),
    ("o(?=[^aeiouywx]es?$)", "oʊ"), ("u(?=[^aeiouywx]es?$)", "u"), ("(?<=[aeiouy][^aeiouy])e(?=s?$)", ""),
    ("(?<=[^aeiouy]{2})e$", ""), ("(?<=[aeiou])e$", ""),
    # Single letters.
    ("c(?=[eiy])", "s"), ("g(?=[eiy])", "dʒ"), ("^y", "j"), ("^over", "oʊvɚ"), ("ens?$", "ən"), ("man$", "mən"),
    ("less$", "ləs"), ("ness$", "nəs"), ("ment", "mənt"), ("a$", "ə"), ("o$|o(?=s$)", "oʊ"),
    ("^([^aeiouy]*)[iy]$", "aɪ"), ("[iy]$", "i"), ("^([^aeiouy]+)e$", "i"), ("u$", "u"),
    ("(?<=[bdglmnrvwaeiouy])s$", "z"), ("(?<=[aeiou])s(?=[aeiou])", "z"), ("j", "dʒ"), ("x", "ks"), ("r", "ɹ"),
    ("g", "ɡ"), ("q|c", "k"), ("y(?=[aeiou])", "j"), ("a", "æ"), ("e", "ɛ"), ("[iy]", "ɪ"), ("o", "ɑ"), ("u", "ʌ"),
    ("[bdfhklmnpstvwz]", None),
]  # fmt: skip
_SOUND_PATTERNS = [(re.compile(pattern), sound) for pattern, sound in _SOUNDS]
_VOWEL = re.compile("[aeiouæɑɔɛɜɪʊʌ]")


def read_text(text: str, lexicon: Lexicon, guess: Callable[[list[str]], Lexicon] | None = None) -> list[str]:
    """Return the phonemes of a text as units (see `phonemes.text_to_units`); arguments as in `pronounce_words`.

    Raises:
        ValueError: The text has no word, or mainly words that cannot be read.
    """
    return text_to_units(text, pronounce_words(text, lexicon, guess).__getitem__)


def pronounce_words(text: str, lexicon: Lexicon, guess: Callable[[list[str]], Lexicon] | None = None) -> Lexicon:
    """Return the phonemes of each word of a text; none for words that are left out.

    Words that the lexicon lacks are looked up without accents and the ending of the genitive. Others are pronounced by
    their letters if the lexicon is English, and as the model guesses otherwise: letters gave 20 % wrong phonemes in
    3,000 English words, and the guesses of "mini" 77 % in 120 of them.

    Args:
        text: any text. A warning names symbols, and a few words in scripts of which the lexicon has no word; they are
            left out.
        lexicon: phonemes by word.
        guess: returns the phonemes that a model guesses for words; None for a model that has not learned it.

    Raises:
        ValueError: The text has mainly words that cannot be read.
    """
    words = list(dict.fromkeys(part for part in split_spoken(text) if part not in PAUSES))
    scripts = _scripts_of({word[0] for word in lexicon})
    phonemes = {}
    unknown = []
    unreadable = []
    for word in words:
        plain = _without_accents(word)
        known = _look_up(word, lexicon) or _look_up(plain, lexicon)
        if known:
            phonemes[word] = known
        elif not _scripts_of(plain) <= scripts or ("LATIN" in scripts and not sound_out(plain)):
            unreadable.append(word)
        else:
            unknown.append(word)

    if unreadable:
        characters = " ".join(sorted(set("".join(unreadable)))[:30])
        if 2 * len(unreadable) >= len(words):
            raise ValueError(
                f"the model cannot read {characters}: it knows words in {', '.join(sorted(scripts)).title()} letters; "
                "write the text in these, or use a model of its language"
            )
        logger.warning("the model cannot read %s and leaves out: %s", characters, ", ".join(unreadable[:10]))
        phonemes.update(dict.fromkeys(unreadable, ""))
    unspoken = unspoken_characters(text)
    if unspoken:
        # Half of a surrogate pair cannot be printed.
        symbols = " ".join(unspoken[:30]).encode("utf-8", "backslashreplace").decode()
        logger.warning("%s cannot be spoken and is left out: write it out in words", symbols)
    if unknown:
        phonemes.update(_guess_words(unknown, lexicon, guess))
    return phonemes


def _guess_words(words: list[str], lexicon: Lexicon, guess: Callable[[list[str]], Lexicon] | None) -> Lexicon:
    """Return the probable phonemes of words that a lexicon lacks."""
    sounds = {word: sound_out(_without_accents(word)) for word in words}
    # Other languages lack some of the sounds of English letters.
    if all(sounds.values()) and set().union(*sounds.values()) <= set().union(*lexicon.values()):
        logger.info("not in the lexicon, so pronounced by their letters: %s", ", ".join(words[:10]))
        return sounds
    if guess is None:
        raise ValueError(
            f"the model's lexicon lacks {', '.join(words[:10])}, and it has not learned to pronounce: train it with "
            "the task pronounce, too, as configs/mini/speech.yaml does, or put the phonemes into lexicon.json"
        )
    return guess(words)


def _look_up(word: str, lexicon: Lexicon) -> str | None:
    """Find a word in a lexicon, or the word of which it is the genitive."""
    if word in lexicon:
        return lexicon[word]
    stem = lexicon.get(word[:-2])
    if not word.endswith("'s") or not stem:
        return None
    if stem[-1] in "szʃʒ":
        return f"{stem}ᵻz"
    return f"{stem}s" if stem[-1] in "ptkfθ" else f"{stem}z"


def _scripts_of(letters: Iterable[str]) -> set[str]:
    return set(map(script_of, filter(str.isalpha, letters)))


def _without_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word.translate(_PLAIN_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def sound_out(word: str) -> str:
    """Return the probable phonemes of an English word by its letters a to z; other characters are silent."""
    # A letter alone, or several of one letter, has its name.
    if len(word) == 1 or word[1:] == "'s":
        name = _LETTER_NAMES.get(word[0].lower(), "")
        return _look_up(word, {word[0]: name}) or ""
    sounds = ""
    position = 0
    while position < len(word):
        for pattern, sound in _SOUND_PATTERNS:
            match = pattern.match(word, position)
            if match and match.end() > position:
                sounds += match[0] if sound is None else sound
                position = match.end()
                break
        else:
            position += 1
    # The first vowel is stressed.
    return _VOWEL.sub(lambda vowel: f"ˈ{vowel[0]}", sounds, count=1)
