import sys

import pytest

from focallm.data.pronunciation import PAUSES, START, learn_lexicon, say, spell_out

LEXICON = {"the": "ðə", "don't": "dˈoʊnt", "cat": "kˈæt", "three": "θɹˈi", "naïve": "naɪˈiv"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The cat.", ["the", "cat", "."]),
        ("Don\u2019t!  Three; cats", ["don't", ".", "three", ",", "cats"]),
        ("1,204 cats", ["one", "thousand", "two", "hundred", "and", "four", "cats"]),
        ("2.5", ["two", "point", "five"]),
        ("... well?! -- yes", ["well", "?", "yes"]),
        ("a-b \u2014 naïve", ["a", "b", "naïve"]),
    ],
)  # fmt: skip
def test_texts_are_words_and_pauses(text, parts):
    assert spell_out(text) == parts


def test_units_are_symbols_between_pauses():
    units = say("The cat: don't", LEXICON.__getitem__)
    assert units == [START, "▁ð", "ə", "▁k", "ˈæ", "t", ",", "▁d", "ˈo", "ʊ", "n", "t", "."]
    assert units[0] == START
    assert units[-1] in PAUSES
    assert "".join(units[1:-1]) == "▁ðə▁kˈæt,▁dˈoʊnt"


@pytest.mark.parametrize("text", ["", " .,! ", "--"])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(ValueError, match="there is no word in"):
        say(text, LEXICON.__getitem__)


def test_a_lexicon_has_the_commonest_sound_among_neighbours():
    pytest.importorskip("espeakng_loader")
    lexicon = learn_lexicon(["A cat sat.", "A dog and a cat, really."])
    assert set(lexicon) == {"a", "and", "cat", "dog", "really", "sat"}
    assert lexicon["a"] == "ɐ"  # alone it is the name of the letter
    assert lexicon["cat"] == "kˈæt"
    assert not set("".join(lexicon.values())) & set("ːˌ ")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[phonemes\]'"):
        learn_lexicon(["a"])
