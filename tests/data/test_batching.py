import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from focallm.data.batching import LengthGroupedSampler, PackCollator, pack, packing_efficiency

PAD = 0


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 120))
def test_every_example_is_in_one_row_and_no_row_overflows(lengths, capacity):
    rows = pack(lengths, capacity)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)
    assert rows == pack(lengths, capacity)
    fewest = -(-sum(lengths) // capacity)
    assert len(rows) <= max(2 * fewest, 0)


def test_nearly_all_positions_are_useful():
    lengths = np.random.default_rng(0).lognormal(5.2, 0.5, 2000).astype(int).clip(60, 900).tolist()
    assert packing_efficiency(lengths, pack(lengths, 2048)) > 0.98


def test_an_example_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="of 9 ids fits in no row of 8"):
        pack([3, 9], 8)


def model(kind, attention, dtype=torch.float32):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "attn_implementation": attention,
    }
    made = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))
    for parameter in made.parameters():  # far from uniform attention
        parameter.data = torch.randn_like(parameter) * 0.3
    return made.to(dtype)


def examples(count=7, seed=0):
    """Random ids, a random part of which has a loss."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(1, 40, rng.integers(2, 12)).tolist()
        start = int(rng.integers(1, len(ids)))
        made.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    return made


def packed(items, capacity=24, flat=False):
    rows = pack([len(item["input_ids"]) for item in items], capacity)
    return PackCollator(PAD, flat)([[items[i] for i in row] for row in rows])


def loss_one_by_one(model, items):
    """Return loss and gradients of the examples, each alone, averaged over all targets."""
    targets = sum(label != -100 for item in items for label in item["labels"])
    model.zero_grad()
    total = 0.0
    for item in items:
        extra = {"features": item["features"]} if "features" in item else {}
        ids, labels = torch.tensor([item["input_ids"]]), torch.tensor([item["labels"]])
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=targets, **extra).loss
        loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in model.parameters()]


def loss_of_batch(model, batch):
    model.zero_grad()
    targets = (batch["labels"] != -100).sum()
    loss = model(**batch, num_items_in_batch=targets).loss
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


def assert_same(model, batch, items):
    loss, gradients = loss_of_batch(model, batch)
    expected, expected_gradients = loss_one_by_one(model, items)
    assert loss == pytest.approx(expected, abs=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, expected_gradient, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_packed_batch_has_the_loss_and_gradients_of_its_examples(kind, attention, flat, checkpointing):
    net = model(kind, attention).train()
    if checkpointing:
        net.gradient_checkpointing_enable()
    items = examples()
    batch = packed(items, flat=flat)
    assert (batch["input_ids"].shape[0] == 1) == flat
    assert_same(net, batch, items)


def test_without_boundaries_the_loss_differs():
    """The test above detects missing boundaries: with a cache, transformers sees none."""
    net, items = model("llama", "sdpa"), examples()
    loss, _ = loss_of_batch(net, {**packed(items), "use_cache": True})
    assert abs(loss - loss_one_by_one(net, items)[0]) > 1e-3


def test_flex_attention_keeps_examples_apart():
    pytest.importorskip("torch.nn.attention.flex_attention")
    net, items = model("llama", "flex_attention"), examples()
    from transformers.masking_utils import create_causal_mask

    batch = packed(items)
    mask = create_causal_mask(
        config=net.config,
        inputs_embeds=torch.zeros(*batch["input_ids"].shape, 16),
        attention_mask=None,
        past_key_values=None,
        position_ids=batch["position_ids"],
    )
    seen = mask.mask_mod
    positions = batch["position_ids"][0]
    starts = (positions == 0).nonzero().flatten().tolist()
    zero = torch.tensor(0)
    for start in starts[1:]:
        assert not seen(zero, zero, torch.tensor(start), torch.tensor(start - 1))
    assert seen(zero, zero, torch.tensor(1), torch.tensor(0))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_features_reach_their_own_example(attention):
    from focallm.lm.features import SpeechLMForConditionalGeneration

    net = SpeechLMForConditionalGeneration.wrap(model("llama", attention), 3, 39)
    items = examples(count=8)
    generator = torch.Generator().manual_seed(0)
    for i, item in enumerate(items):  # the third has none
        item["input_ids"] = [i % 38 if i == 39 else i for i in item["input_ids"]]
        count = 0 if i == 2 else i + 1
        item["input_ids"] = [1] + [39] * count + [2, *[min(j, 38) for j in item["input_ids"]]]
        item["labels"] = [-100] * (count + 2) + [min(j, 38) for j in item["labels"]]
        item["features"] = torch.randn(count, 3, generator=generator)
    assert_same(net, packed(items, 40), items)


# Order


LENGTHS = np.random.default_rng(0).integers(10, 500, 1003).tolist()


def order(seed=0, epoch=0, lengths=LENGTHS):
    sampler = LengthGroupedSampler(lengths, 8, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_example_comes_once():
    assert sorted(order()) == list(range(len(LENGTHS)))
    assert sorted(order(lengths=LENGTHS[:5])) == list(range(5))


def test_the_order_follows_from_seed_and_epoch_alone():
    np.random.seed(1)
    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_little_of_a_batch_is_padding():
    lengths = np.array(LENGTHS)
    batches = [lengths[order()[i : i + 8]] for i in range(0, 1000, 8)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert sum(batch.sum() for batch in batches) / padded > 0.95
