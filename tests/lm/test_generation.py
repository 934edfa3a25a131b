"""The machine around the model, with a mock model: uniform or scripted logits, no weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focallm.lm import LengthWindow, Sampling, Vocabulary
from focallm.lm.generation import SpeechOnly, generate


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.characters(["abc"], 32)


def biased_model(vocabulary: Vocabulary, favourite: int) -> LlamaForCausalLM:
    """A real causal LM whose every step prefers one id, by far."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary.padded_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).eval()
    head = torch.nn.Linear(16, vocabulary.padded_size)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.zero_()[favourite] = 50.0
    model.lm_head = head
    return model


def run(vocabulary, favourite, length=(5, 9), seed=0, temperature=1.0):
    prompt = torch.tensor(vocabulary.text_ids("abc"))
    model = biased_model(vocabulary, favourite)
    return generate(model, vocabulary, prompt, length, Sampling(temperature, top_p=1.0), seed)


def test_a_model_that_wants_to_stop_at_once_still_speaks(vocabulary):
    result = run(vocabulary, vocabulary.control("end"))
    assert len(result.codes) == 5
    assert result.stop_reason == "end"


def test_a_model_that_never_stops_is_stopped(vocabulary):
    result = run(vocabulary, vocabulary.audio_offset + 3, temperature=0)
    assert result.codes.tolist() == [3] * 9
    assert result.stop_reason == "length"


def test_a_model_that_wants_text_gives_only_codes(vocabulary):
    result = run(vocabulary, vocabulary.text_ids("a")[0])
    assert 5 <= len(result.codes) <= 9
    assert all(0 <= code < 32 for code in result.codes.tolist())


def test_the_seed_decides(vocabulary):
    a, b, c = (run(vocabulary, 0, (9, 9), seed).codes.tolist() for seed in (1, 1, 2))
    assert a == b != c


def test_generation_leaves_the_global_generator_alone(vocabulary):
    model = biased_model(vocabulary, 0)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    generate(model, vocabulary, torch.tensor([1]), (3, 3), Sampling(), seed=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("length", [(0, 5), (6, 5)])
def test_an_empty_window_is_refused(vocabulary, length):
    with pytest.raises(ValueError, match="fewest"):
        run(vocabulary, 0, length)


def test_more_than_the_models_positions_is_refused(vocabulary):
    with pytest.raises(ValueError, match="128 positions: split the text"):
        run(vocabulary, 0, (5, 500))


@pytest.mark.parametrize("values", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}])
def test_impossible_sampling_is_refused(values):
    with pytest.raises(ValueError, match="sampling needs"):
        Sampling(**values)


def test_speech_only_masks_all_but_audio_until_the_end_may_come(vocabulary):
    processor = SpeechOnly(vocabulary, prompt_length=2, min_new=1)
    scores = torch.zeros(1, vocabulary.padded_size)
    early = processor(torch.zeros(1, 2, dtype=torch.long), scores).isfinite()
    late = processor(torch.zeros(1, 3, dtype=torch.long), scores).isfinite()
    assert early.sum() == 32
    assert not early[0, vocabulary.control("end")]
    assert late.sum() == 33
    assert late[0, vocabulary.control("end")]


def test_the_length_window_holds_the_corpus_it_was_learnt_from():
    characters, seconds = [10, 20, 40], [1.0, 1.6, 2.4]
    window = LengthWindow.learn(characters, seconds)
    for c, s in zip(characters, seconds, strict=True):
        low, high = window.tokens(c, 50)
        assert low <= s * 50 <= high
    assert window.tokens(1, 50)[0] >= 1
