import pytest
import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    LlamaConfig,
    LlamaForCausalLM,
    MimiConfig,
    MimiModel,
)

from focallm.lm import SpeechLM, Vocabulary
from focallm.lm.embeddings import code_vectors
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.codecs import DacCodec, EncodecCodec, MimiCodec


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


def test_codes_that_are_neighbours_in_the_codec_are_neighbours_in_the_lm(audio_tokenizer):
    lm = build(audio_tokenizer, embeddings="codec")
    vectors = code_vectors(audio_tokenizer)[0]
    assert vectors.shape == (8192, 13)
    mine, theirs = angles(audio_rows(lm)), angles(vectors)
    assert torch.allclose(mine / mine.std(), theirs / theirs.std(), atol=1e-3)


def test_new_rows_spread_as_the_old_ones_and_only_they_change(audio_tokenizer):
    fresh, lm = build(audio_tokenizer), build(audio_tokenizer, embeddings="codec")
    offset = lm.vocabulary.audio_offset
    old = fresh.model.get_input_embeddings().weight[:offset].detach()
    assert torch.equal(lm.model.get_input_embeddings().weight[:offset], old)
    rows = audio_rows(lm)
    assert torch.allclose(rows.mean(0), old.mean(0), atol=1e-3)
    assert torch.isclose((rows - rows.mean(0)).std(), (old - old.mean(0)).std(), rtol=0.01)
    assert not torch.equal(audio_rows(fresh), rows)


def test_the_start_is_the_same_whatever_the_global_seed(audio_tokenizer):
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


def _encodec():
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_size=64, num_lstm_layers=1, target_bandwidths=[1.8])
    model = EncodecModel(config)
    for layer in model.quantizer.layers:
        torch.nn.init.normal_(layer.codebook.embed)
    return EncodecCodec(model, 2)


def _dac():
    config = DacConfig(encoder_hidden_size=4, downsampling_ratios=[2, 4, 5, 8], n_codebooks=4, codebook_size=32)
    return DacCodec(DacModel(config), 3)


def _mimi():
    sizes = {"hidden_size": 32, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16, "codebook_size": 64}
    layers = {"num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = MimiModel(MimiConfig(num_filters=4, num_quantizers=4, upsample_groups=32, **sizes, **layers))
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):
            torch.nn.init.normal_(buffer)
        if name.endswith("cluster_usage"):
            torch.nn.init.ones_(buffer)
    return MimiCodec(model, 4)


@pytest.mark.parametrize(("make", "count", "size"), [(_encodec, 2, 64), (_dac, 3, 32), (_mimi, 4, 64)])
def test_every_codec_has_code_vectors(make, count, size):
    torch.manual_seed(0)
    audio_tokenizer = AudioTokenizer(make())
    vectors = code_vectors(audio_tokenizer)
    assert [len(v) for v in vectors] == [size] * count
    rows = audio_rows(build(audio_tokenizer, embeddings="codec")).unflatten(0, (count, size))
    assert torch.isfinite(rows).all()
    for k, table in enumerate(vectors):
        assert torch.linalg.matrix_rank(rows[k] - rows[k].mean(0)) >= min(table.shape[1], 8) - 1


def test_another_start_is_named(audio_tokenizer):
    with pytest.raises(ValueError, match="'mean' or 'codec', found 'zero'"):
        build(audio_tokenizer, embeddings="zero")
