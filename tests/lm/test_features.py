from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Qwen3Config,
    Trainer,
    TrainingArguments,
    set_seed,
)

from focallm.lm.features import (
    FeatureProjector,
    SpeechLMForConditionalGeneration,
    embed,
    language_model,
    neighbor_indices,
)
from focallm.lm.lora import LoRA, add_lora

SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=8, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
}
PLACE, D = 7, 5


def model_with_features(name="llama"):
    set_seed(0)
    causal = AutoModelForCausalLM.from_config(CONFIGS[name])
    return SpeechLMForConditionalGeneration.wrap(causal, D, PLACE).eval()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids = torch.randint(8, 40, (2, 9))
    ids[0, :3] = PLACE
    ids[1, 2:4] = PLACE
    return ids, torch.randn(5, D)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_and_buffer_survives_saving_and_loading(name, batch, tmp_path):
    model = model_with_features(name)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is SpeechLMForConditionalGeneration
    assert type(again.language_model) is type(model.language_model)
    tensors, found = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (model, again))
    assert tensors.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in tensors.items())
    assert torch.equal(model(*batch).logits, again.eval()(*batch).logits)
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == CONFIGS[name].tie_word_embeddings


def test_features_replace_their_ids_row_after_row(batch):
    model, (ids, features) = model_with_features(), batch
    around = neighbor_indices(ids == PLACE, model.config.feature_context)
    rows, projected = embed(model, ids, features), model.projector(features, around)
    assert torch.equal(rows[0, :3], projected[:3])
    assert torch.equal(rows[1, 2:4], projected[3:])
    others = ids != PLACE
    assert torch.equal(rows[others], model.get_input_embeddings()(ids[others]))
    alone = model(ids[1:], features[3:]).logits
    assert torch.allclose(model(ids, features).logits[1:], alone, atol=1e-6)


def test_features_of_any_scale_and_dtype_are_projected_with_their_level():
    projector = FeatureProjector(D, 16).apply(model_with_features()._init_weights)
    frames = torch.randn(4, D)
    alone = torch.arange(4)[:, None]
    for scaled in (frames * 1e3, frames * 1e-3, torch.zeros(4, D)):
        assert projector(scaled, alone).isfinite().all()
        assert projector(scaled, alone).std() < 10
    assert torch.allclose(projector(frames.half(), alone), projector(frames, alone), atol=1e-2)
    assert (projector(frames + 2, alone) - projector(frames, alone)).abs().max() > 1e-3  # a louder log-mel frame
    assert projector(torch.zeros(0, D), alone[:0]).shape == (0, 16)


def test_neighbors_come_from_the_same_run():
    is_feature = torch.tensor([[1, 1, 1, 0, 1], [1, 0, 0, 1, 1]]).bool()
    assert neighbor_indices(is_feature, 1).tolist() == [
        [0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 4], [5, 5, 6], [5, 6, 6],
    ]  # fmt: skip
    assert neighbor_indices(is_feature & False, 3).shape == (0, 7)


def test_the_context_of_a_feature_ends_at_its_recording(batch):
    model, (ids, features) = model_with_features(), batch
    before = embed(model, ids, features)
    changed = embed(model, ids, features.index_fill(0, torch.tensor([2]), 3.0))
    assert not torch.allclose(before[0, 0], changed[0, 0])
    assert torch.equal(before[1], changed[1])


@pytest.mark.parametrize("shape", [(4, D), (6, D), (5, D + 1), (0, D), (1, 5, D)])
def test_features_that_do_not_fit_the_ids_are_an_error(shape, batch):
    with pytest.raises(ValueError, match=r"5 <\|feature\|> ids need features of shape \(5, 5\), found"):
        model_with_features()(batch[0], torch.zeros(shape))
    with pytest.raises(ValueError, match="need features"):
        model_with_features()(batch[0])


def test_a_plain_model_reads_ids_and_refuses_features(batch):
    causal = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    assert torch.equal(embed(causal, batch[0]), causal.get_input_embeddings()(batch[0]))
    assert language_model(causal) is causal
    with pytest.raises(ValueError, match="reads no continuous features"):
        embed(causal, *batch)


def test_a_packed_row_gives_the_loss_of_its_parts(batch):
    model, (ids, features) = model_with_features(), batch
    whole = model(
        ids.reshape(1, -1),
        features,
        position_ids=torch.arange(9).repeat(2)[None],
        labels=ids.reshape(1, -1).index_fill(1, torch.tensor([0, 9]), -100),
        num_items_in_batch=1,
        use_cache=False,  # with a cache transformers does not look for boundaries in the positions
    ).loss
    parts = [
        model(ids[i : i + 1], part, labels=ids[i : i + 1], num_items_in_batch=1).loss
        for i, part in enumerate(features.split([3, 2]))
    ]
    assert torch.allclose(whole, sum(parts), atol=1e-4)


def test_gradients_with_checkpointing_are_those_without_and_reach_the_projector_of_batches_without_features(batch):
    model, (ids, features) = model_with_features(), batch
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(ids, features, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    model.zero_grad()
    model(ids.clamp(min=8), labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())  # DDP waits for every one


def test_accumulated_steps_give_the_weights_of_one_large_batch(tmp_path):
    torch.manual_seed(0)
    rows = []
    for i in range(4):  # different numbers of targets and of features
        ids = torch.cat([torch.full((i,), PLACE), torch.randint(8, 40, (3 + i,))])
        rows.append({"input_ids": ids, "labels": ids.where(ids != PLACE, -100), "features": torch.randn(i, D)})

    def collate(items):
        batch = {
            key: nn.utils.rnn.pad_sequence([item[key] for item in items], batch_first=True, padding_value=value)
            for key, value in (("input_ids", 0), ("labels", -100))
        }
        return {**batch, "features": torch.cat([item["features"] for item in items])}

    def trained(size, accumulation):
        model = model_with_features()
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=size, use_cpu=True, report_to=[],
            gradient_accumulation_steps=accumulation, optim="sgd", learning_rate=0.5, max_grad_norm=0,
            save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", dataloader_pin_memory=False,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
        return model.state_dict()

    large, small = trained(4, 1), trained(1, 4)
    assert all(torch.allclose(large[key], value, atol=1e-5) for key, value in small.items())


def test_generate_reads_features_once_with_a_cache_and_always_without(batch):
    model, (ids, features) = model_with_features(), batch
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    options["attention_mask"] = torch.ones_like(ids)
    cached = model.generate(ids, features=features, **options)
    assert torch.equal(cached, model.generate(ids, features=features, use_cache=False, **options))
    assert torch.equal(cached[0, 9:10], model(ids, features).logits[0, -1:].argmax(-1))


def test_resizing_and_attention_reach_the_inner_model(batch):
    model = model_with_features()
    model.resize_token_embeddings(128, mean_resizing=False)
    assert model(*batch).logits.shape[-1] == 128
    assert model.config.text_config.vocab_size == 128
    model.set_attn_implementation("eager")
    assert model.language_model.config._attn_implementation == "eager"


def test_models_in_a_peft_wrapper_are_found(batch):
    model = model_with_features()
    expected = model(*batch).logits

    ids = SimpleNamespace(controls={}, audio_range=range(8, 12))  # all that add_lora asks of a vocabulary
    adapted = add_lora(model, ids, LoRA(rank=2))
    assert language_model(adapted) is model.language_model
    assert torch.allclose(language_model(adapted)(inputs_embeds=embed(adapted, *batch)).logits, expected, atol=1e-6)
