"""Constrained generation with mock models: uniform, biased or scripted logits."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from focallm.lm import LengthWindow, Sampling, SpeechLM, Vocabulary
from focallm.lm import generation as machine
from focallm.lm.features import SpeechLMForConditionalGeneration
from focallm.lm.generation import generate
from focallm.lm.info import SpeechLMInfo
from focallm.lm.templates import Phase, Prompt
from focallm.tasks.definitions import TEMPLATES

GREEDY = Sampling(temperature=0)
MANY = [GREEDY, Sampling(), Sampling(1.0, top_k=5, min_p=0.1, repetition_window=4), Sampling(bitwise=True)]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.characters(["abc"], 32)


class Codec:
    """The attributes of an audio tokenizer that `SpeechLM` uses."""

    vocab_size = 32


def biased(vocabulary: Vocabulary, favorite: int) -> LlamaForCausalLM:
    """A causal LM that strongly prefers one id in every step."""
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
        head.bias.zero_()[favorite] = 50.0
    model.lm_head = head
    return model


def lively(vocabulary: Vocabulary, name: str = "llama") -> torch.nn.Module:
    """A random model whose logits differ widely and depend on all ids before."""
    rows, small = vocabulary.padded_size, {"num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0}
    shape = {"vocab_size": rows, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 128, **small}
    torch.manual_seed(1)
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=1)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**shape, num_key_value_heads=1, head_dim=8)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=16, n_layer=2, n_head=2, n_positions=128)),
    }[name]()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.6 if parameter.ndim > 1 else 1.0)
    return model


def speech_lm(vocabulary, model) -> SpeechLM:
    return SpeechLM(model, vocabulary, Codec(), SpeechLMInfo())


def run(vocabulary, favorite, length=(5, 9), seed=0, temperature=1.0):
    lm = speech_lm(vocabulary, biased(vocabulary, favorite))
    return lm.generate(vocabulary.text_ids("abc"), length, Sampling(temperature, top_p=1.0), seed)


def test_a_span_has_its_minimum_length_even_if_the_model_would_stop(vocabulary):
    result = run(vocabulary, vocabulary.control("end"))
    assert len(result.codes) == 5
    assert (result.stop_reason, result.num_spans_at_max) == ("end", 0)


def test_a_span_stops_at_its_maximum_length(vocabulary):
    result = run(vocabulary, vocabulary.audio_offset + 3, temperature=0)
    assert result.codes.tolist() == [3] * 9
    assert (result.stop_reason, result.num_spans_at_max) == ("max_length", 1)


def test_a_model_that_prefers_text_writes_only_codes(vocabulary):
    result = run(vocabulary, vocabulary.text_ids("a")[0])
    assert 5 <= len(result.codes) <= 9
    assert all(0 <= code < 32 for code in result.codes.tolist())


def test_the_seed_determines_the_output(vocabulary):
    a, b, c = (run(vocabulary, 0, (9, 9), seed).codes.tolist() for seed in (1, 1, 2))
    assert a == b != c


def test_generation_does_not_change_the_global_generator_or_the_mode(vocabulary):
    lm = speech_lm(vocabulary, lively(vocabulary, "gpt2").train())  # it has dropout
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = lm.generate([1], (3, 3)).codes
    assert torch.equal(torch.rand(1), expected)
    assert lm.model.training
    assert torch.equal(first, lm.generate([1], (3, 3)).codes)


@pytest.mark.parametrize("length", [(0, 5), (6, 5)])
def test_an_empty_window_is_refused(vocabulary, length):
    with pytest.raises(ValueError, match="min_length"):
        run(vocabulary, 0, length)


def test_more_than_the_models_positions_is_refused(vocabulary):
    with pytest.raises(ValueError, match="128 positions: shorten the prompt"):
        run(vocabulary, 0, (5, 500))


def test_all_positions_can_be_used(vocabulary):
    assert len(run(vocabulary, vocabulary.audio_offset, (125, 125)).codes) == 125


def test_damaged_weights_are_one_clear_error(vocabulary):
    model = lively(vocabulary)
    model.model.norm.weight.data[0] = torch.nan
    for sampling in (GREEDY, Sampling()):
        with pytest.raises(ValueError, match="weights are damaged"):
            speech_lm(vocabulary, model).generate([1, 2], (1, 3), sampling)


def test_incomplete_and_contradictory_prompts_are_refused(vocabulary):
    lm = speech_lm(vocabulary, lively(vocabulary))
    prompt = Prompt([1, 2], (Phase("codes", 1, 3, vocabulary.control("end")),))
    for arguments, message in [
        (([],), "at least one id"),
        ((prompt, (1, 2)), "already states its lengths"),
        (([prompt, prompt], None, None, [1]), "2 prompts need as many seeds"),
        ((prompt, None, Sampling(guidance=2)), "make it with a template"),
        (("hello",), "found a text"),
    ]:
        with pytest.raises(ValueError, match=message):
            lm.generate(*arguments)


# Phases of prompts


def test_streams_of_a_separation_have_equal_lengths(vocabulary):
    for favorite in ("end", "speaker"):  # regardless of what the model prefers
        lm = speech_lm(vocabulary, biased(vocabulary, vocabulary.control(favorite)))
        result = lm.generate(TEMPLATES["ss"].prompt(vocabulary, (4, 4), streams=3, mixture_codes=[1] * 4))
        assert [len(span) for span in result.spans] == [4, 4, 4]
        assert result.stop_reason == "constraint"


def test_recognition_writes_text_and_may_write_none(vocabulary):
    prompt = TEMPLATES["asr"].prompt(vocabulary, (0, 6), codes=[1, 2])
    silent = speech_lm(vocabulary, biased(vocabulary, vocabulary.control("end"))).generate(prompt)
    assert silent.spans[0].tolist() == []
    assert silent.stop_reason == "end"
    for favorite in (vocabulary.audio_offset, vocabulary.tokenizer.unk_token_id, vocabulary.text_ids("c")[0]):
        (span,) = speech_lm(vocabulary, biased(vocabulary, favorite)).generate(prompt, sampling=Sampling(1)).spans
        text = vocabulary.tokenizer.decode(span)
        assert vocabulary.text_ids(text.strip()) == vocabulary.text_ids(text)
        assert "<" not in text


def test_a_span_of_codes_is_never_empty(vocabulary):
    lm = speech_lm(vocabulary, biased(vocabulary, vocabulary.control("end")))
    assert len(lm.generate(TEMPLATES["continuation"].prompt(vocabulary, (0, 6))).codes) == 1


def test_half_frames_are_refused():
    vocabulary = Vocabulary.characters(["abc"], [16, 16])
    with pytest.raises(ValueError, match="no whole number of frames of 2 codebooks"):
        run(vocabulary, 0, (3, 3))


class Scripted:
    """A mock model with random logits, some of them far above the others or impossible."""

    def __init__(self, vocabulary: Vocabulary, batch: int, seed: int) -> None:
        self.generator, self.batch, self.size = torch.Generator().manual_seed(seed), batch, vocabulary.padded_size
        self.step([])

    def step(self, ids) -> None:
        self._logits = torch.randn(self.batch, self.size, generator=self.generator).pow(5)

    def keep(self, rows) -> None:
        self.batch = len(rows)

    def logits(self, rows, start, stop):
        return self._logits[list(rows), start:stop]


phases = st.tuples(st.sampled_from(["codes", "text"]), st.integers(0, 7), st.integers(0, 7))


@settings(max_examples=60)
@given(
    st.lists(st.lists(phases, min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from([(32,), (8, 16), (4, 8, 4)]),
    st.integers(0, 1000),
    st.sampled_from(
        [GREEDY, Sampling(), Sampling(1.0, top_k=5, min_p=0.1, repetition_window=4), Sampling(bitwise=True)]
    ),
)
def test_every_sequence_is_valid_for_any_logits(items, sizes, seed, sampling):
    vocabulary = Vocabulary.characters(["abc"], list(sizes))
    frame, closings = len(sizes), [vocabulary.control("speaker"), vocabulary.control("end")]
    prompts = [
        Prompt(
            [1],
            tuple(
                Phase(kind, *((a, a + b + 1) if kind == "text" else ((a + 1) * frame, (a + b + 1) * frame)), closing)
                for (kind, a, b), closing in zip(item, closings[:1] * (len(item) - 1) + closings[1:], strict=True)
            ),
        )
        for item in items
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "prefill", lambda *_: Scripted(vocabulary, len(items), seed))
        results = generate(biased(vocabulary, 0), vocabulary, prompts, sampling, range(len(items)))
    offsets = [sum(sizes[:k]) for k in range(frame)]
    text = set(range(len(vocabulary))) - {vocabulary.tokenizer.unk_token_id}
    text -= {vocabulary.control(name) for name in ("end", "speaker", "pad", "text", "speech", "feature")}
    for prompt, result in zip(prompts, results, strict=True):
        assert len(result.spans) == len(prompt.phases)
        for phase, span in zip(prompt.phases, result.spans, strict=True):
            assert phase.min_length <= len(span) <= phase.max_length
            if phase.kind == "text":
                assert text.issuperset(span.tolist())
                assert not vocabulary.codes(span.tolist())
            else:
                assert len(span) % frame == 0
                positions = [(code, i % frame) for i, code in enumerate(span.tolist())]
                assert all(offsets[k] <= code < offsets[k] + sizes[k] for code, k in positions)
        fixed = all(phase.min_length == phase.max_length for phase in prompt.phases)
        assert (result.stop_reason == "constraint") == fixed


# Batches


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, top_k=20, repetition_window=5), Sampling(0, guidance=3.0)])
def test_batching_does_not_change_results(vocabulary, name, sampling):
    lm = speech_lm(vocabulary, lively(vocabulary, name))
    tts, ss, asr = (TEMPLATES[task] for task in ("tts", "ss", "asr"))
    prompts = [
        tts.prompt(vocabulary, (3, 30), speaker="a", text="cab a cab"),
        tts.prompt(vocabulary, (1, 9), speaker="a", text="b"),
        ss.prompt(vocabulary, (7, 7), streams=2, mixture_codes=[5, 6, 7, 8, 9, 10, 11]),
        asr.prompt(vocabulary, (0, 12), codes=[3, 4, 5]),
    ]
    together = lm.generate(prompts, sampling=sampling, seed=[4, 5, 6, 7])
    for prompt, seed, found in zip(prompts, [4, 5, 6, 7], together, strict=True):
        alone = lm.generate(prompt, sampling=sampling, seed=seed)
        assert found.stop_reason == alone.stop_reason
        assert [span.tolist() for span in found.spans] == [span.tolist() for span in alone.spans]
    if sampling is GREEDY:
        assert len({tuple(found.spans[0].tolist()) for found in together}) == 4  # the prompts matter


def test_features_of_different_lengths_reach_their_items(vocabulary):
    torch.manual_seed(2)
    model = SpeechLMForConditionalGeneration.wrap(lively(vocabulary), 6, vocabulary.control("feature"))
    torch.nn.init.normal_(model.projector.outer.weight)
    lm = speech_lm(vocabulary, model)
    features = [torch.randn(n, 6) for n in (4, 9)]
    prompts = [TEMPLATES["se-features"].prompt(vocabulary, (len(f), len(f)), noisy_features=f) for f in features]
    for sampling in (GREEDY, Sampling(0, guidance=2.0)):
        together = lm.generate(prompts, sampling=sampling)
        assert [len(found.codes) for found in together] == [4, 9]
        for prompt, found in zip(prompts, together, strict=True):
            assert torch.equal(found.codes, lm.generate(prompt, sampling=sampling).codes)
    other = TEMPLATES["se-features"].prompt(vocabulary, (9, 9), noisy_features=features[1].flip(0))
    assert not torch.equal(lm.generate(other, sampling=GREEDY).codes, lm.generate(prompts[1], sampling=GREEDY).codes)


def test_guidance_moves_the_logits_away_from_those_of_the_emptied_prompt(vocabulary):
    lm, moved = speech_lm(vocabulary, lively(vocabulary).eval()), False
    audio = slice(vocabulary.audio_offset, vocabulary.audio_offset + 32)
    for text in ("a", "b", "c", "cab", "bac"):
        prompt = TEMPLATES["tts"].prompt(vocabulary, (1, 1), speaker="a", text=text)
        with torch.no_grad():
            both = [lm.model(torch.tensor([ids])).logits[0, -1, audio] for ids in (prompt.ids, prompt.unconditional)]
        expected = (both[1] + 3 * (both[0] - both[1])).argmax()
        assert lm.generate(prompt, sampling=Sampling(0, guidance=3)).codes.tolist() == [int(expected)]
        moved = moved or expected != both[0].argmax()
    assert moved


# Streams


def test_bitwise_codes_are_the_majority_of_each_bit_and_only_the_end_is_sampled(vocabulary):
    model, seeds = biased(vocabulary, 0), range(40)
    with torch.no_grad():
        model.lm_head.bias.zero_()[vocabulary.audio_offset + torch.tensor([1, 4, 7])] = 9.0
        model.lm_head.bias[vocabulary.control("end")] = 9.0
    prompt = Prompt(vocabulary.text_ids("abc"), (Phase("codes", 1, 6, vocabulary.control("end")),))
    drawn = generate(model, vocabulary, [prompt] * 40, Sampling(bitwise=True, top_p=1.0), seeds)
    assert {code for one in drawn for code in one.codes.tolist()} == {5}  # of 001, 100 and 111: never itself likely
    assert len({len(one.codes) for one in drawn}) > 2
    lm = speech_lm(vocabulary, model)
    lm.audio_tokenizer.codec = SimpleNamespace(is_binary=False)
    with pytest.raises(ValueError, match="bitwise needs a codec whose codes are bits"):
        lm.generate(prompt, sampling=Sampling(bitwise=True))


@pytest.mark.parametrize(("length", "chunk"), [((5, 30), 4), ((8, 8), 4), ((3, 3), 25)])
def test_a_stream_yields_the_codes_of_generate(vocabulary, length, chunk):
    lm = speech_lm(vocabulary, lively(vocabulary))
    prompt = TEMPLATES["tts"].prompt(vocabulary, length, speaker="a", text="cab")
    whole = lm.generate(prompt, seed=3)
    stream, chunks = lm.stream(prompt, seed=3, chunk=chunk), []
    while True:
        try:
            chunks.append(next(stream))
        except StopIteration as stop:
            result = stop.value
            break
    assert torch.equal(result.codes, whole.codes)
    assert result.stop_reason == whole.stop_reason
    assert [code for codes in chunks for code in codes] == whole.codes.tolist()
    assert all(len(codes) == chunk for codes in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= chunk


def test_a_stream_does_not_wait_for_the_end(vocabulary, monkeypatch):
    steps = []
    monkeypatch.setattr(machine, "prefill", lambda *_: Counting(vocabulary, 1, 0))

    class Counting(Scripted):
        def step(self, ids) -> None:
            steps.append(ids)
            super().step(ids)

    prompt = TEMPLATES["ss"].prompt(vocabulary, (9, 9), streams=2, mixture_codes=[1] * 9)
    stream = speech_lm(vocabulary, biased(vocabulary, 0)).stream(prompt, chunk=4)
    assert len(next(stream)) == 4
    assert len(steps) == 4  # the prompt and three codes have been read
    assert [len(codes) for codes in stream] == [4, 1]  # of the first speaker only
    assert len(steps) == 19


def test_an_impossible_stream_is_refused_at_once(vocabulary):
    lm = speech_lm(vocabulary, lively(vocabulary))
    with pytest.raises(ValueError, match="chunk must be"):
        lm.stream([1], chunk=0)
    with pytest.raises(ValueError, match="only codes can be streamed"):
        lm.stream(TEMPLATES["asr"].prompt(vocabulary, (0, 5), codes=[1]))


def test_the_length_window_contains_its_corpus():
    characters, seconds = [10, 20, 40], [1.0, 1.6, 2.4]
    window = LengthWindow.from_corpus(characters, seconds)
    for c, s in zip(characters, seconds, strict=True):
        low, high = window.tokens(c, 50)
        assert low <= s * 50 <= high
    assert window.tokens(1, 50)[0] >= 1
