import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focallm.lm import SpeechLM, Vocabulary
from focallm.lm.embeddings import code_vectors
from focallm.tokenizer import AudioTokenizer


@pytest.fixture(scope="module")
def audio_tokenizer(codec) -> AudioTokenizer:
    return AudioTokenizer(codec("tiny_50hz"))


def build(audio_tokenizer, **kwargs) -> SpeechLM:
    torch.manual_seed(0)
    return SpeechLM.from_config(
        "tiny", audio_tokenizer, Vocabulary.characters(["a"], audio_tokenizer.codebook_sizes), **kwargs
    )


def audio_rows(lm: SpeechLM, head: bool = False) -> torch.Tensor:
    module = lm.model.get_output_embeddings() if head else lm.model.get_input_embeddings()
    return module.weight[list(lm.vocabulary.audio_range)].detach()


def angles(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows - rows.mean(0), dim=-1) @ (rows[:20] - rows.mean(0)).T


def test_similar_codes_have_similar_embeddings(audio_tokenizer):
    lm = build(audio_tokenizer, embeddings="codec")
    vectors = code_vectors(audio_tokenizer.codec)[0]
    assert vectors.shape == (8192, 13)
    mine, theirs = angles(audio_rows(lm)), angles(vectors)
    assert torch.allclose(mine / mine.std(), theirs / theirs.std(), atol=1e-3)


def test_only_new_rows_change_and_have_the_deviation_of_the_old_ones(audio_tokenizer):
    fresh, lm = build(audio_tokenizer), build(audio_tokenizer, embeddings="codec")
    offset = lm.vocabulary.audio_offset
    old = fresh.model.get_input_embeddings().weight[:offset].detach()
    assert torch.equal(lm.model.get_input_embeddings().weight[:offset], old)
    rows = audio_rows(lm)
    assert torch.allclose(rows.mean(0), old.mean(0), atol=1e-3)
    assert torch.isclose((rows - rows.mean(0)).std(), (old - old.mean(0)).std(), rtol=0.01)
    assert not torch.equal(audio_rows(fresh), rows)


def test_initialization_does_not_depend_on_the_global_seed(audio_tokenizer):
    def started(seed):
        lm = build(audio_tokenizer, embeddings="codec")
        torch.manual_seed(seed)
        return angles(audio_rows(lm))

    assert torch.equal(started(1), started(2))


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_gets_rows_in_embedding_and_head(tied, audio_tokenizer, tmp_path):
    torch.manual_seed(0)
    tokenizer = Vocabulary.characters(["abc"], 1).tokenizer
    tokenizer.save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=tied, **shape)).save_pretrained(tmp_path)
    mean = SpeechLM.from_base(tmp_path, audio_tokenizer)
    lm = SpeechLM.from_base(tmp_path, audio_tokenizer, embeddings="codec")
    assert audio_rows(mean)[100:].std(0).max() < 1e-6  # all alike
    assert audio_rows(lm).std(0).min() > 1e-3
    assert audio_rows(lm, head=True).std(0).min() > 1e-3
    assert (lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight) == tied
    ids = torch.tensor([lm.vocabulary.text_ids("abc")])
    assert torch.equal(lm.model(ids).logits[..., :30], mean.model(ids).logits[..., :30])


def test_every_codec_has_code_vectors(any_codec):
    audio_tokenizer = AudioTokenizer(any_codec)
    vectors = code_vectors(audio_tokenizer.codec)
    assert tuple(map(len, vectors)) == audio_tokenizer.codebook_sizes
    rows = audio_rows(build(audio_tokenizer, embeddings="codec")).split([len(table) for table in vectors])
    for table, part in zip(vectors, rows, strict=True):
        assert torch.isfinite(part).all()
        assert torch.linalg.matrix_rank(part - part.mean(0)) >= min(table.shape[1], 8) - 1


def test_an_unknown_initialization_is_an_error(audio_tokenizer):
    with pytest.raises(ValueError, match="'mean' or 'codec', found 'zero'"):
        build(audio_tokenizer, embeddings="zero")
