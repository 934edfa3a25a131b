import json

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    Qwen2Config,
    set_seed,
)

from focallm.lm import SpeechLM
from focallm.lm.embeddings import new_ids
from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

ROWS, TOKENS = 300, 256  # a base often has more rows than its tokenizer has tokens
SMALL = {"vocab_size": ROWS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "max_position_embeddings": 64}
CONFIGS = {
    "llama, tied": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True),
    "qwen2, untied": Qwen2Config(**SMALL, **HEADS, num_key_value_heads=1, tie_word_embeddings=False),
    "gpt2, tied": GPT2Config(vocab_size=ROWS, n_embd=16, n_layer=1, n_head=2, n_positions=64),
    "neox, untied": GPTNeoXConfig(**SMALL, **HEADS),
    "phi, a head with a bias": PhiConfig(**SMALL, **HEADS),
}


@pytest.fixture(scope="module")
def codec() -> AudioTokenizer:
    torch.manual_seed(0)
    focal = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20},
        compressor={"input_dim": 20, "output_dim": 6, **focal},
        quantizer={"codebook_size": 64},
        decompressor={"input_dim": 6, "output_dim": 20, **focal},
        decoder={"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
    )
    return AudioTokenizer(FocalCodecModel(config).eval())


def base_folder(folder, name):
    set_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    assert tokenizer.get_vocab_size() == TOKENS
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.mark.parametrize("feature_size", [None, 20])
@pytest.mark.parametrize("name", CONFIGS)
def test_any_base_becomes_a_speech_lm_whose_new_rows_start_at_the_mean(name, feature_size, codec, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path, name))
    lm = SpeechLM.from_base(tmp_path, codec, feature_size=feature_size)
    new = torch.tensor(new_ids(lm.vocabulary))
    known = len(AutoTokenizer.from_pretrained(tmp_path))  # Qwen's tokenizer adds a token
    assert new.min() == known < ROWS  # the spare rows are taken
    assert len(lm.vocabulary) > ROWS
    for part in ("get_input_embeddings", "get_output_embeddings"):
        rows, old = getattr(lm.model, part)().weight, getattr(base, part)().weight
        assert len(rows) % 64 == 0
        assert len(rows) >= len(lm.vocabulary)
        assert torch.equal(rows[:known], old[:known])
        assert torch.allclose(rows[known:], old[:known].mean(0), atol=1e-6)
    assert (lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight) == (", tied" in name)
    ids = torch.tensor([lm.vocabulary.text_ids("hello")])
    assert torch.allclose(lm.model.eval()(ids).logits[..., :TOKENS], base.eval()(ids).logits[..., :TOKENS], atol=1e-5)
    end, pad = lm.vocabulary.control("end"), lm.vocabulary.control("pad")
    for config in (lm.model.config.get_text_config(), lm.model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (end, pad)


@pytest.mark.parametrize("name", CONFIGS)
def test_promise_5_an_adapted_base_is_the_same_after_saving_and_loading(name, codec, tmp_path):
    lm = SpeechLM.from_base(base_folder(tmp_path / "base", name), codec)
    ids = torch.tensor([[*lm.vocabulary.text_ids("hello"), *new_ids(lm.vocabulary)[:8]]])
    lm.save_pretrained(tmp_path / "saved")
    again = SpeechLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.model(ids).logits, lm.model.eval()(ids).logits)


def test_a_base_with_a_sentencepiece_tokenizer(codec, tmp_path):
    texts = ["the cat sat on the mat", "a dog ate the cat", "mats are for dogs and cats"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=9,
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    set_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**{**SMALL, "vocab_size": len(pieces)}, **HEADS)).save_pretrained(
        tmp_path
    )
    lm = SpeechLM.from_base(tmp_path, codec)
    assert min(new_ids(lm.vocabulary)) == len(pieces)
    assert lm.vocabulary.text_ids("the cat sat") == pieces.encode("the cat sat")
    lm.save_pretrained(tmp_path / "saved")
    assert SpeechLM.from_pretrained(tmp_path / "saved").vocabulary.text_ids("a dog") == pieces.encode("a dog")


def test_sampling_options_of_the_base_are_dropped(codec, tmp_path):
    base_folder(tmp_path, "llama, tied")
    (tmp_path / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.3, "top_k": 20}))
    assert SpeechLM.from_base(tmp_path, codec).model.generation_config.repetition_penalty in (None, 1.0)


def test_weights_load_in_the_requested_dtype(codec, tmp_path):
    base_folder(tmp_path, "llama, tied")
    assert SpeechLM.from_base(tmp_path, codec).model.dtype == torch.float32
    assert SpeechLM.from_base(tmp_path, codec, feature_size=5, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_unexpected_weights_are_ignored_and_missing_ones_are_an_error(codec, tmp_path):
    path = base_folder(tmp_path, "llama, tied") / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "vision.weight": torch.zeros(2)}, path, {"format": "pt"})
    SpeechLM.from_base(tmp_path, codec)
    del tensors["model.norm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as \['model.norm.weight'\]"):
        SpeechLM.from_base(tmp_path, codec)


def test_a_model_without_rows_for_the_vocabulary_is_refused(codec):
    lm = SpeechLM.from_config("tiny", codec)
    with pytest.raises(ValueError, match="the model has 64 rows for a vocabulary of"):
        SpeechLM(
            AutoModelForCausalLM.from_config(LlamaConfig(**{**SMALL, "vocab_size": 64}, **HEADS)),
            lm.vocabulary,
            codec,
            lm.info,
        )


def test_a_card_is_written_once(codec, tmp_path):
    lm = SpeechLM.from_config("tiny", codec)
    lm.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    text = card.read_text()
    assert "| tasks | none yet |" in text
    assert text.count("nknown: ") == 2  # training data and results
    assert "| weights | unknown |" in text
    card.write_text("mine")
    lm.save_pretrained(tmp_path)
    assert card.read_text() == "mine"
    assert not list(tmp_path.glob(".*"))
