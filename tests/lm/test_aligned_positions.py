"""Positions restart after <|speech|> and <|speaker|>, so that output and input frames are aligned."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from focallm.lm import features
from focallm.lm.features import SpeechLMForConditionalGeneration, aligned_positions, positions_from_mask
from focallm.lm.generation import generate
from focallm.lm.sampling import Sampling
from focallm.lm.vocabulary import Vocabulary
from focallm.tasks.definitions import TEMPLATES

WIDTH = 4
SE, SS = TEMPLATES["se-features"], TEMPLATES["ss-features"]
BASES = {
    "llama": lambda rows: LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    ),
    "gpt2": lambda rows: GPT2Config(vocab_size=rows, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, attn_pdrop=0.0),
}


@pytest.fixture
def vocabulary():
    return Vocabulary.characters(["ab"], 16)


def fresh(vocabulary, base="llama", attention="sdpa"):
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(BASES[base](vocabulary.padded_size), attn_implementation=attention)
    ids = [vocabulary.control("speech"), vocabulary.control("speaker")]
    return SpeechLMForConditionalGeneration.wrap(causal, WIDTH, vocabulary.control("feature"), ids)


def reading(vocabulary, base="llama", attention="sdpa"):
    model = fresh(vocabulary, base, attention)
    for parameter in model.parameters():  # larger than a fresh model's, so that a mistake shows
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 1.0)
    return model.eval()


def test_positions_restart_at_restart_ids_and_at_examples():
    ids = torch.tensor([[1, 7, 7, 9, 5, 5, 8, 5, 5, 1, 7, 9, 5, 0]])
    order = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 0]])
    found = aligned_positions(ids, order, [9, 8])
    assert found.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0]]
    assert torch.equal(aligned_positions(ids, order, []), order)


def test_left_padding_does_not_change_positions():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    ids = torch.tensor([[9, 9, 1, 7, 9, 5]])  # ids at padding do not matter
    assert aligned_positions(ids, positions_from_mask(mask), [9])[0, 2:].tolist() == [0, 1, 0, 1]


def test_frames_of_prompt_and_streams_have_equal_positions(vocabulary):
    row = {"mixture_features": torch.zeros(3, WIDTH), "sources": [[1, 2, 3], [4, 5, 6]]}
    ids = torch.tensor([SS.example(vocabulary, row)["input_ids"]])
    restarts = [vocabulary.control("speech"), vocabulary.control("speaker")]
    found = aligned_positions(ids, torch.arange(ids.shape[1])[None], restarts)[0].tolist()
    assert found == [0, 1, 2, 3] * 3 + [4]  # mixture, speech, speaker; end


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_examples_do_not_see_each_other(vocabulary, attention):
    model = reading(vocabulary, attention=attention)
    rows = [{"noisy_features": torch.randn(n, WIDTH), "codes": torch.randint(0, 16, (n,)).tolist()} for n in (5, 2, 7)]
    items = [SE.example(vocabulary, row) for row in rows]
    alone = [model(torch.tensor([item["input_ids"]]), item["features"]).logits[0] for item in items]
    packed = model(
        torch.tensor([[i for item in items for i in item["input_ids"]]]),
        torch.cat([item["features"] for item in items]),
        position_ids=torch.cat([torch.arange(len(item["input_ids"])) for item in items])[None],
        use_cache=False,
    )
    assert torch.allclose(packed.logits[0], torch.cat(alone), atol=1e-4)


def test_an_attention_without_masks_is_an_error(vocabulary):
    model = reading(vocabulary)
    model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2' takes no mask of examples.*sdpa"):
        model(torch.tensor([[1, 2, 3]]))


def test_a_cache_without_positions_is_refused(vocabulary):
    model = reading(vocabulary)
    cache = model(torch.tensor([[1, 2]])).past_key_values
    with pytest.raises(ValueError, match="with a cache this model needs"):
        model(torch.tensor([[3]]), past_key_values=cache)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("template", [SE, SS], ids=lambda template: template.name)
def test_all_decoders_agree_with_the_logits_of_the_whole_sequence(vocabulary, base, template):
    """Both decoders, alone and in a batch, against a forward of the whole sequence."""
    model, streams = reading(vocabulary, base), 2 if template is SS else 1
    field = template.segments[0].field
    prompts = [template.prompt(vocabulary, (n, n), streams, **{field: torch.randn(n, WIDTH)}) for n in (6, 3)]
    found = generate(model, vocabulary, prompts, Sampling(0), [0, 0])
    for prompt, generation in zip(prompts, found, strict=True):
        (alone,) = generate(model, vocabulary, [prompt], Sampling(0), [0])
        assert [s.tolist() for s in alone.spans] == [s.tolist() for s in generation.spans]
        ids = list(prompt.ids)
        for span, phase in zip(generation.spans, prompt.phases, strict=True):
            for code in span.tolist():
                logits = model(torch.tensor([ids]), prompt.features).logits[0, -1]
                assert int(logits[vocabulary.audio_range.start : vocabulary.audio_range.stop].argmax()) == code
                ids.append(vocabulary.audio_offset + code)
            ids.append(phase.closing_id)


def test_generate_of_transformers_uses_the_same_positions(vocabulary, tmp_path):
    reading(vocabulary).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert list(model.config.restart_ids) == [vocabulary.control("speech"), vocabulary.control("speaker")]
    prompt = SE.prompt(vocabulary, (5, 5), noisy_features=torch.randn(5, WIDTH))
    ids = torch.tensor([prompt.ids])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(ids, features=prompt.features, attention_mask=torch.ones_like(ids), **options)
    for end in range(len(prompt.ids), plain.shape[1]):
        assert plain[0, end] == model(plain[:, :end], prompt.features).logits[0, -1].argmax()
    again = model.generate(
        ids, features=prompt.features, attention_mask=torch.ones_like(ids), use_cache=False, **options
    )
    assert torch.equal(plain, again)


def test_alignment_generalizes_to_longer_sequences(vocabulary, monkeypatch):
    """Output frames follow their input frames in sequences four times as long as those in training."""
    monkeypatch.setattr(features, "CONTEXT", 0)  # the model would first have to learn to ignore the neighbors
    model = fresh(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(16, WIDTH, generator=generator)
    for _ in range(300):
        n = int(torch.randint(4, 11, (), generator=generator))
        codes = torch.randint(0, 16, (16, n), generator=generator)
        items = [SE.example(vocabulary, {"noisy_features": table[row], "codes": row.tolist()}) for row in codes]
        ids, labels = (torch.tensor([item[key] for item in items]) for key in ("input_ids", "labels"))
        model(ids, torch.cat([item["features"] for item in items]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    codes = torch.randint(0, 16, (40,), generator=generator)
    prompt = SE.prompt(vocabulary, (40, 40), noisy_features=table[codes])
    (found,) = generate(model.eval(), vocabulary, [prompt], Sampling(0), [0])
    assert (found.codes == codes).float().mean() > 0.9
