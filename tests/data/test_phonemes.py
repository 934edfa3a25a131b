import sys

import pytest

from focallm.data.phonemes import PAUSES, WORD_START, build_lexicon, spell_out, split_units, text_to_units

LEXICON = {"the": "ðə", "don't": "dˈoʊnt", "cat": "kˈæt", "three": "θɹˈi", "naïve": "naɪˈiv"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The cat.", ["the", "cat", "."]),
        ("Don\u2019t!  Three; cats", ["don't", ".", "three", ",", "cats"]),
        ("1,204 cats", ["one", "thousand", "two", "hundred", "and", "four", "cats"]),
        ("2.5", ["two", "point", "five"]),
        ("... well?! -- yes", ["well", "?", "yes"]),
        ("a-b \u2014 naïve", ["a", "b", ",", "naïve"]),
    ],
)  # fmt: skip
def test_texts_are_words_and_pauses(text, parts):
    assert spell_out(text) == parts


def test_units_are_symbols_between_pauses():
    units = text_to_units("The cat: don't", LEXICON.__getitem__)
    assert units == [WORD_START, "▁ð", "ə", "▁k", "ˈæ", "t", ",", "▁d", "ˈo", "ʊ", "n", "t", "."]
    assert units[0] == WORD_START
    assert units[-1] in PAUSES
    assert "".join(units[1:-1]) == "▁ðə▁kˈæt,▁dˈoʊnt"


@pytest.mark.parametrize("text", ["", " .,! ", "--"])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(ValueError, match="there is no word in"):
        text_to_units(text, LEXICON.__getitem__)


@pytest.mark.parametrize(
    ("text", "most", "ends"),
    [
        ("The cat. The cat, the cat.", 18, [",", "."]),  # at the last pause that fits
        ("the cat the cat the cat", 8, ["ə", "ə", "."]),  # without one, where a word begins
        ("the cat", 20, ["."]),
    ],
)
def test_long_texts_are_split_at_pauses_or_words(text, most, ends):
    units = text_to_units(text, LEXICON.__getitem__)
    pieces = split_units(units, most)
    assert [piece[-1] for piece in pieces] == ends
    assert all(piece[0] == WORD_START and len(piece) <= most for piece in pieces)
    assert [units[0], *(unit for piece in pieces for unit in piece[1:])] == units


def test_a_word_longer_than_a_piece_is_split():
    assert [len(piece) for piece in split_units([WORD_START, *"a" * 25], 10)] == [10, 10, 8]


def test_a_lexicon_has_the_most_frequent_phonemes_in_context():
    pytest.importorskip("espeakng_loader")
    lexicon = build_lexicon(["A cat sat.", "A dog and a cat, really."])
    assert set(lexicon) == {"a", "and", "cat", "dog", "really", "sat"}
    assert lexicon["a"] == "ɐ"  # alone it is the name of the letter
    assert lexicon["cat"] == "kˈæt"
    assert not set("".join(lexicon.values())) & set("ːˌ ")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install 'focallm\[phonemes\]'"):
        build_lexicon(["a"])
