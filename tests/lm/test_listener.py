"""A copy of the codec's compressor in front of the projector."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, set_seed

from focallm.lm.features import SpeechLMForConditionalGeneration, add_listener, embed
from focallm.lm.training import LMRecipe
from focallm.lm.training.build import build
from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

D, PLACE = 20, 7
FOCAL = {"focal_window": 3, "focal_level": 1, "focal_factor": 2}


def tokenizer_of(factors=(1,)):
    set_seed(1)
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": D},
        compressor={"input_dim": D, "output_dim": 5, "factors": factors, "hidden_dims": [8] * len(factors), **FOCAL},
        quantizer={"codebook_size": 32},
        decompressor={"input_dim": 5, "output_dim": D, "factors": factors, "hidden_dims": [8] * len(factors), **FOCAL},
        decoder={"type": "vocos", "input_dim": D, "num_layers": 1, "dim": 8, "ffn_dim": 8},
    )
    return AudioTokenizer(FocalCodecModel(config))


def reader():
    set_seed(0)
    causal = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    )
    return SpeechLMForConditionalGeneration.wrap(causal, D, PLACE).eval()


def learnt():
    """A listener whose last layer is no longer where it began."""
    model = reader()
    add_listener(model, tokenizer_of())
    torch.nn.init.normal_(model.projector.listener.out_proj.weight)
    return model.eval()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids = torch.randint(8, 60, (2, 12))
    ids[0, :7] = PLACE
    ids[1, 2:4] = PLACE
    return ids, torch.randn(9, D)


def test_it_begins_with_what_the_compressor_learnt_and_changes_nothing_yet(batch):
    model, tokenizer = reader(), tokenizer_of()
    before = model(*batch).logits
    add_listener(model, tokenizer)
    compressor, listener = tokenizer.codec.compressor, model.projector.listener
    assert torch.equal(model(*batch).logits, before)
    assert all(
        torch.equal(p, dict(listener.named_parameters())[n]) for n, p in compressor.layers.named_parameters("layers")
    )
    assert all(a.data_ptr() != b.data_ptr() for a in listener.parameters() for b in compressor.parameters())
    add_listener(model, tokenizer)  # as from a base that has one
    assert model.projector.listener is listener


def test_it_hears_a_recording_whole_and_no_other(batch):
    model, (ids, features) = learnt(), batch
    rows = embed(model, ids, features)
    assert torch.allclose(embed(model, ids[1:], features[7:])[0], rows[1], atol=1e-5)  # alone as in the batch
    changed = embed(model, ids, features.index_fill(0, torch.tensor([6]), 3.0))
    assert not torch.allclose(changed[0, 0], rows[0, 0])
    assert torch.equal(changed[1], rows[1])


def test_it_is_trained_saved_and_opened_with_the_model(batch, tmp_path):
    model, (ids, features) = learnt().train(), batch
    model(ids, features, labels=ids).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.projector.listener.parameters())
    model.zero_grad()
    model(ids.clamp(min=8), labels=ids.clamp(min=8)).loss.backward()
    assert all(p.grad is not None for p in model.projector.listener.parameters())  # DDP waits for every one
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(*batch).logits, model(*batch).logits)


def test_a_recipe_asks_for_it():
    llama = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    recipe = LMRecipe(model=llama, listener=True)
    lm = build(recipe, tokenizer_of(), ["a"], feature_size=D)
    assert lm.model.config.listener == dict(tokenizer_of().codec.config.compressor)
    with pytest.raises(ValueError, match="a task of features"):
        build(recipe, tokenizer_of(), ["a"])
    with pytest.raises(ValueError, match=r"as many frames as there are features.*factors \(2,\)"):
        build(recipe, tokenizer_of((2,)), ["a"], feature_size=D)
    with pytest.raises(ValueError, match="lora and listener exclude"):
        LMRecipe(base="x", lora={"rank": 2}, listener=True)
