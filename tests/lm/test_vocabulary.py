import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from focallm.lm import Vocabulary
from focallm.lm.vocabulary import CONTROLS

TEXTS = ["Hello there.", "What's that?"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.characters(TEXTS, 64)


def test_audio_ids_are_arithmetic_and_come_back(vocabulary):
    codes = [0, 63, 5, 5]
    ids = vocabulary.audio_ids(codes)
    assert ids == [vocabulary.audio_offset + c for c in codes]
    assert vocabulary.codes([vocabulary.control("speech"), *ids, vocabulary.control("end")]) == codes


def test_text_is_one_id_per_character_regardless_of_case_and_spacing(vocabulary):
    ids = vocabulary.text_ids("  Hello\n there. ")
    assert ids == vocabulary.text_ids("hello there.")
    assert len(ids) == len("hello there.")


def test_unseen_characters_become_unknown_not_an_error(vocabulary):
    unknown = vocabulary.tokenizer.unk_token_id
    assert vocabulary.text_ids("h€") == [vocabulary.text_ids("h")[0], unknown]


def test_text_never_becomes_audio_or_control_ids(vocabulary):
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


def sentencepiece_model(folder, texts=None, **options):
    model = io.BytesIO()
    defaults = {"model_type": "unigram", "vocab_size": 120, "hard_vocab_limit": False, "minloglevel": 2}
    if options.get("model_type") == "bpe":
        del defaults["hard_vocab_limit"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts or SENTENCES), model_writer=model, **{**defaults, **options}
    )
    path = folder / "spm.model"
    path.write_bytes(model.getvalue())
    return path, sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


SENTENCES = [
    f'{who} {verb} {what} {where}, and then {who.lower()} said: "it\'s {count}!"'
    for who in ("The old man", "A quick fox", "My sister", "Nobody")
    for verb in ("saw", "carried", "painted", "forgot")
    for what in ("seven boxes", "the jolly river", "a very long zigzag")
    for where, count in (("in Café Müller", 10), ("on the hill", 256), ("at home?", 97))
]
ODD = [
    "",
    " ",
    "  leading",
    "trailing  ",
    " a  b   c ",
    "漢字 and 🙂🙂",
    "naïve ﬁne ½",
    "a\tb\nc",
    "<s></s><unk>",
    "▁x▁",
    "CAFÉ",
]
VARIANTS = [
    {},
    {"byte_fallback": True, "vocab_size": 400},
    {"add_dummy_prefix": False},
    {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"},
    {"normalization_rule_name": "nfkc_cf"},
    {"user_defined_symbols": ["[laugh]"]},
]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_sentencepiece_file_gives_the_ids_of_sentencepiece_itself(kind, options, tmp_path):
    path, reference = sentencepiece_model(tmp_path, model_type=kind, **options)
    vocabulary = Vocabulary.from_base(path, 16)
    assert vocabulary.audio_offset >= reference.get_piece_size()
    for text in [*SENTENCES, *ODD, "well[laugh] yes [laugh]"]:
        assert vocabulary.text_ids(text) == reference.encode(text), text
    sentence = reference.decode(reference.encode(SENTENCES[0]))
    assert vocabulary.tokenizer.decode(vocabulary.text_ids(SENTENCES[0])) == sentence


@given(text=st.text(st.sampled_from("abcdeABCÉéßö 漢字🙂.,!?'<>|_▁123\t\n\u3000"), max_size=40))
def test_any_text_has_the_ids_of_sentencepiece(text, agreement):
    vocabulary, reference = agreement
    assert vocabulary.text_ids(text) == reference.encode(text)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def agreement(request, tmp_path_factory):
    path, reference = sentencepiece_model(tmp_path_factory.mktemp("spm"), model_type=request.param)
    return Vocabulary.from_base(path, 16), reference


def test_a_file_that_is_no_sentencepiece_model_is_an_error(tmp_path):
    (tmp_path / "x.model").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"x\.model is no sentencepiece model"):
        Vocabulary.from_base(tmp_path / "x.model", 16)


def test_a_vocabulary_is_trained_on_transcripts(tmp_path):
    vocabulary = Vocabulary.train(SENTENCES, 100, (32, 32))
    assert vocabulary.audio_offset <= 100 + len(CONTROLS)
    text = "The old man carried seven boxes"
    ids = vocabulary.text_ids(text)
    assert len(ids) < 0.7 * len(text)  # 100 pieces, for 60 sentences
    assert vocabulary.tokenizer.decode(ids) == text.lower()
    assert ids == vocabulary.text_ids(f"  {text.upper()}\n")
    old = vocabulary.text_ids("old")
    assert vocabulary.text_ids("the old")[-len(old) :] == old  # a word is the same at the beginning of a text
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path).text_ids(text) == ids
    assert Vocabulary.train(SENTENCES, 100, 64).tokenizer.get_vocab() == vocabulary.tokenizer.get_vocab()


def test_an_impossible_size_is_an_error():
    with pytest.raises(ValueError, match="sentencepiece cannot make 3 pieces"):
        Vocabulary.train(SENTENCES, 3, 16)


def byte_bpe():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_tokens(["<tool>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def byte_bpe_file(folder):
    byte_bpe().backend_tokenizer.save(str(folder / "tokenizer.json"))
    return Vocabulary.from_base(folder / "tokenizer.json", (30, 34))


def byte_bpe_folder(folder):
    byte_bpe().save_pretrained(folder)
    return Vocabulary.from_base(folder, (30, 34))


MAKERS = {
    "characters": lambda folder: Vocabulary.characters(SENTENCES, 64),
    "trained": lambda folder: Vocabulary.train(SENTENCES, 100, 64),
    "unigram": lambda folder: Vocabulary.from_base(sentencepiece_model(folder)[0], 64),
    "bpe": lambda folder: Vocabulary.from_base(sentencepiece_model(folder, model_type="bpe")[0], 64),
    "tokenizer.json": byte_bpe_file,
    "folder": byte_bpe_folder,
    "written in Python": lambda folder: Vocabulary.extend(ByT5Tokenizer(), 64),
}


@pytest.fixture(scope="module", params=MAKERS)
def any_vocabulary(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    MAKERS[request.param](folder).save(folder / "saved")
    return Vocabulary.load(folder / "saved")


def test_every_kind_of_base_survives_saving_and_loading(any_vocabulary):
    tokenizer, offset = any_vocabulary.tokenizer, any_vocabulary.audio_offset
    assert any_vocabulary.audio_range == range(offset, offset + 64)
    audio = [f"<|audio_{code}|>" for code in (0, 63, 5)]
    assert tokenizer("".join(audio), add_special_tokens=False)["input_ids"] == any_vocabulary.audio_ids([0, 63, 5])
    ids = [any_vocabulary.control("text"), *any_vocabulary.audio_ids([0, 63, 5]), any_vocabulary.control("end")]
    kept = tokenizer.decode(ids, skip_special_tokens=True)
    assert [part for part in audio if part in kept] == audio
    assert "<|text|>" not in kept
    assert "<|end|>" not in kept


@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from([f"<|{name}|>" for name in CONTROLS]),
            st.sampled_from(
                ["<|audio_5|>", "<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|unknown|>", "\uff1cs\uff1e"]
            ),
            st.text(st.sampled_from("abc <|>_5audioend"), max_size=6),
        ),
        max_size=6,
    )
)
def test_no_text_becomes_a_control_or_audio_id(parts, any_vocabulary):
    ids = any_vocabulary.text_ids("".join(parts))
    unknown = any_vocabulary.tokenizer.unk_token_id
    forbidden = ({*any_vocabulary.tokenizer.all_special_ids} - {unknown}) | {
        any_vocabulary.control(name) for name in CONTROLS
    }
    assert not forbidden & set(ids)
    assert not set(ids) & set(any_vocabulary.audio_range)


def test_extending_a_base_does_not_change_its_text_ids():
    base = byte_bpe()
    vocabulary = Vocabulary.extend(byte_bpe(), 64)
    for text in [*SENTENCES, *ODD, "use <tool> now"]:
        assert vocabulary.text_ids(text) == base(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("sizes", [2048, 65536, (1024,) * 8])
def test_codebooks_of_any_size(sizes):
    vocabulary = Vocabulary.characters(["a"], sizes)
    total = sizes if isinstance(sizes, int) else sum(sizes)
    assert vocabulary.audio_ids([0, total - 1]) == [vocabulary.audio_offset, len(vocabulary) - 1]
    assert vocabulary.tokenizer.convert_tokens_to_ids(f"<|audio_{total - 1}|>") == len(vocabulary) - 1


def test_a_tokenizer_without_text_is_refused():
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="gives no ids for text"):
        Vocabulary.extend(empty, 16)
