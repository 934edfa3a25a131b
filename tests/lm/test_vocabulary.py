import pytest

from focallm.lm import Vocabulary

TEXTS = ["Hello there.", "What's that?"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.characters(TEXTS, 64)


def test_audio_ids_are_arithmetic_and_come_back(vocabulary):
    codes = [0, 63, 5, 5]
    ids = vocabulary.audio_ids(codes)
    assert ids == [vocabulary.audio_offset + c for c in codes]
    assert vocabulary.codes([vocabulary.control("speech"), *ids, vocabulary.control("end")]) == codes


def test_text_is_one_id_per_character_whatever_its_case_and_spacing(vocabulary):
    ids = vocabulary.text_ids("  Hello\n there. ")
    assert ids == vocabulary.text_ids("hello there.")
    assert len(ids) == len("hello there.")


def test_unseen_characters_become_unknown_not_an_error(vocabulary):
    unknown = vocabulary.tokenizer.unk_token_id
    assert vocabulary.text_ids("h€") == [vocabulary.text_ids("h")[0], unknown]


def test_text_cannot_smuggle_audio_or_control_ids_apart_from_their_strings(vocabulary):
    plain = vocabulary.text_ids("audio 3 end speech")
    assert max(plain) < vocabulary.audio_offset


def test_audio_strings_survive_skip_special_tokens(vocabulary):
    ids = [vocabulary.control("speech"), *vocabulary.audio_ids([3]), vocabulary.control("end")]
    assert vocabulary.tokenizer.decode(ids, skip_special_tokens=True).strip() == "<|audio_3|>"


def test_padded_size_is_the_next_multiple_of_64(vocabulary):
    assert vocabulary.padded_size % 64 == 0
    assert 0 <= vocabulary.padded_size - len(vocabulary) < 64


def test_save_and_load_keep_every_id(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert again.audio_offset == vocabulary.audio_offset
    assert again.text_ids(TEXTS[1]) == vocabulary.text_ids(TEXTS[1])
    assert again.tokenizer.get_vocab() == vocabulary.tokenizer.get_vocab()


def test_a_tokenizer_without_our_tokens_is_refused(vocabulary):
    with pytest.raises(ValueError, match="lacks audio tokens"):
        Vocabulary(vocabulary.tokenizer, 65)
