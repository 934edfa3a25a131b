"""Decoders give, one id at a time, the logits of transformers for the whole sequence."""

import random

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from focallm.lm import decoding
from focallm.lm.decoding import CausalDecoder, LlamaDecoder, PromptBatch, is_llama_shaped, prefill
from focallm.lm.features import positions_from_mask

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAST = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama, shared keys, biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_key_value_heads=2, attention_bias=True, mlp_bias=True)
    ),
    "llama, wide heads": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, head_dim=16, num_key_value_heads=1)),
    "llama 3": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3)),
    "linear": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    ),
    "yarn": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **SHAPE,
            num_key_value_heads=4,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        )
    ),
    "qwen 2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen 3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8)),
}
SLOW = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "mistral, sliding window": lambda: MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=4)
    ),
    "qwen 2, sliding window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    ),
    "llama, dynamic rope": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    ),
    "llama, another activation": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_act="gelu")),
}


def made(build):
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():  # larger than a fresh model's, so that a mistake shows
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 1.0)
    return model


@torch.no_grad()
def worst(model, lengths=(7, 3, 1), steps=9):
    """Return the largest difference from the logits of transformers for each sequence, while rows leave the batch."""
    ids = [torch.randint(1, 96, (n,)).tolist() for n in lengths]
    width = max(lengths)
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    reader = prefill(model, PromptBatch(model.get_input_embeddings()(padded), mask, positions_from_mask(mask)), steps)
    difference = 0.0
    for step in range(steps + 1):
        found = reader.logits(range(len(ids)), 5, 90)
        expected = torch.stack([model(torch.tensor([row])).logits[0, -1, 5:90] for row in ids])
        difference = max(difference, float((found - expected).abs().max()))
        if step == 3:
            reader.keep([1, 2][: len(ids) - 1] or [0])
            ids = ids[1:] or ids
        if step < steps:
            drawn = torch.randint(1, 96, (len(ids),)).tolist()
            for row, chosen in zip(ids, drawn, strict=True):
                row.append(chosen)
            reader.step(drawn)
    return difference


@pytest.mark.parametrize("name", FAST)
def test_the_llama_decoder_gives_the_logits_of_transformers(name, monkeypatch):
    monkeypatch.setattr(decoding, "_CACHE_GROWTH", 4)  # the cache grows on the way
    model = made(FAST[name])
    assert is_llama_shaped(model)
    assert worst(model) < 1e-4
    assert worst(model, lengths=(5, 5)) < 1e-4  # nothing is padded


@pytest.mark.parametrize("name", ["llama", "llama, shared keys, biases", "qwen 3"])
def test_weights_that_came_in_half_precision_give_the_same_logits(name):
    model = made(FAST[name])
    for parameter in model.parameters():
        parameter.data = parameter.half().float()
    assert worst(model) < 1e-4


def test_only_weights_that_lose_nothing_are_stored_in_half_precision():
    weight = torch.randn(32, 32).half().float()
    is_available = torch.backends.quantized.engine in ("x86", "fbgemm")
    assert (decoding._pack(weight) is not None) == is_available
    for value in (0.1, 1e6, 1e-9, torch.nan):  # rounded, too large, too small, damaged
        changed = weight.clone()
        changed[3, 5] = value
        assert decoding._pack(changed) is None
    assert decoding._pack(weight.double()) is None


@pytest.mark.parametrize("name", SLOW)
def test_other_models_run_with_their_own_forward(name):
    model = made(SLOW[name])
    assert not is_llama_shaped(model)
    assert worst(model, steps=6) < 1e-4


def test_a_subclassed_layer_runs_with_its_own_forward():
    model = made(FAST["llama"])

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model.model.layers[1].self_attn.q_proj.__class__ = Doubled
    assert not is_llama_shaped(model)
    assert worst(model) < 1e-4


def test_models_with_adapters_run_with_their_own_forward():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(made(FAST["llama"]), LoraConfig(target_modules=["q_proj", "down_proj"]))
    assert not is_llama_shaped(model)
    assert not is_llama_shaped(model.get_base_model())


def test_logits_of_selected_rows():
    for build, kind in ((FAST["llama"], LlamaDecoder), (SLOW["gpt2"], CausalDecoder)):
        model = made(build)
        ids = torch.randint(1, 96, (3, 4))
        with torch.no_grad():
            mask = torch.ones_like(ids)
            reader = prefill(model, PromptBatch(model.get_input_embeddings()(ids), mask, positions_from_mask(mask)), 2)
        assert type(reader) is kind
        every = reader.logits([0, 1, 2], 10, 20)
        assert torch.allclose(reader.logits([0, 2], 10, 20), every[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("name", [*FAST, *SLOW])
@torch.no_grad()
def test_rows_that_join_and_leave_do_not_change_the_others(name, monkeypatch):
    """Random joins and departures, also of all rows, against a forward of each whole sequence."""
    monkeypatch.setattr(decoding, "_CACHE_GROWTH", 4)
    model = made({**FAST, **SLOW}[name])
    choices = random.Random(0)

    def prompts(lengths):
        rows = [torch.randint(1, 96, (n,)).tolist() for n in lengths]
        width = max(lengths)
        padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return rows, PromptBatch(model.get_input_embeddings()(padded), mask, positions_from_mask(mask))

    rows, batch = prompts([3, 9])
    reader = prefill(model, batch, 40)
    most = 0
    for step in range(40):
        if step == 20:
            rows = []
            reader.keep([])
        if step in (2, 7, 20, 25) or choices.random() < 0.2:
            new_rows, batch = prompts(choices.choices(range(1, 12), k=choices.randint(1, 3)))
            reader.join(batch, 40)
            rows += new_rows
        most = max(most, len(rows))
        found = reader.logits(range(len(rows)), 5, 90)
        expected = torch.stack([model(torch.tensor([row])).logits[0, -1, 5:90] for row in rows])
        assert torch.allclose(found, expected, atol=2e-4), step
        # Rows also leave before they outgrow the positions of the model.
        kept = [i for i, row in enumerate(rows) if choices.random() < 0.9 and len(row) < 30]
        if len(kept) < len(rows):
            rows = [rows[i] for i in kept]
            reader.keep(kept)
        if not rows:
            rows, batch = prompts([4])
            reader.join(batch, 40)
        drawn = torch.randint(1, 96, (len(rows),)).tolist()
        for row, chosen in zip(rows, drawn, strict=True):
            row.append(chosen)
        reader.step(drawn)
    assert most > 3
