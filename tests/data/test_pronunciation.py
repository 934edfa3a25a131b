"""Every word is pronounced: by the lexicon, by its letters, or by a guess; words that cannot be read are refused."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focallm.data.phonemes import WORD_START
from focallm.data.pronunciation import read_text, sound_out
from focallm.lm.loading import find_folder, read_lexicon

ENGLISH = {"a": "ɐ", "A": "ˈeɪ", "cat": "kˈæt", "cafe": "kæfˈeɪ", "fish": "fˈɪʃ", "dog": "dˈɔɡ"}


@pytest.fixture(scope="module")
def mini():
    return read_lexicon(find_folder("mini", {}))


def spoken(text, lexicon, guess=None):
    return "".join(read_text(text, lexicon, guess)[1:-1]).split(WORD_START)[1:]


def test_letters_have_their_names(mini):
    assert spoken("the FBI", mini) == ["ðə", "ˈɛf", "bˈi", "ˈaɪ"]
    assert spoken("a plan A", mini) == ["ɐ", "plˈæn", "ˈeɪ"]
    assert spoken("CDs", mini) == ["sˈi", "dˈiz"]


def test_words_are_found_without_accents_and_in_the_genitive():
    words = spoken("café cafe\u0301 Café's cat's dog's fish's", ENGLISH)
    assert words == ["kæfˈeɪ", "kæfˈeɪ", "kæfˈeɪz", "kˈæts", "dˈɔɡz", "fˈɪʃᵻz"]


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [
        ("blorft", "blˈɔɹft"), ("shatching", "ʃˈætʃɪŋ"), ("knipe", "nˈaɪp"), ("zation", "zˈæʃən"),
        ("grobble", "ɡɹˈɑbəl"), ("b", "bˈi"), ("x's", "ˈɛksᵻz"), ("", ""),
    ],
)  # fmt: skip
def test_unknown_words_are_pronounced_by_their_letters(word, phonemes):
    assert sound_out(word) == phonemes


def test_a_guess_is_taken_only_in_other_languages(mini):
    def guess(words):
        return dict.fromkeys(words, "xa")

    assert spoken("blorft", mini, guess) == ["blˈɔɹft"]
    assert spoken("blorft", {"wort": "vɔrt"}, guess) == ["xa"]
    assert spoken("кот, собака", {"кот": "kˈot"}, guess) == ["kˈot,", "xa"]
    with pytest.raises(ValueError, match="it knows words in Cyrillic letters"):
        read_text("cat", {"кот": "kˈot"}, guess)
    with pytest.raises(ValueError, match=r"lexicon lacks blorft, .*task pronounce"):
        read_text("blorft", {"wort": "vɔrt"})


def test_characters_that_cannot_be_read_are_named(caplog):
    for text in ("Привет, мир", "日本語", "cat мир"):
        with pytest.raises(ValueError, match=r"the model cannot read [^:]*: it knows words in Latin letters"):
            read_text(text, ENGLISH)
    assert spoken("a cat, a мир 😀 dog", ENGLISH) == spoken("a cat, a dog", ENGLISH)
    assert "cannot read и м р and leaves out: мир" in caplog.text
    assert "😀 cannot be spoken" in caplog.text


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.text(alphabet="abcdefghijklmnopqrstuvwxyz'éß ñЖ", max_size=60))
def test_any_text_gives_units_of_the_lexicon_or_one_error(text, mini):
    symbols = set("".join(mini.values())) | set(WORD_START + ",.?")
    units = ["."]
    with contextlib.suppress(ValueError):
        units = read_text(text, mini)
    assert set("".join(units)) <= symbols
