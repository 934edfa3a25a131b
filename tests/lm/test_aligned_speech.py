"""Aligned speech: training examples and generation, with mock models."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from focallm.lm import Sampling, Vocabulary
from focallm.lm.constraints import DecodingConstraint, allowed_ranges
from focallm.lm.generation import generate, stream
from focallm.lm.templates import IGNORED, interleave, unit_openings
from focallm.tasks.definitions import TEMPLATES

UNITS = ["▁", "▁ˈa", "b", "."]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.characters(["abc▁ˈ.,"], 32)


def to_string(vocabulary, ids):
    return "".join(vocabulary.tokenizer.convert_ids_to_tokens(ids))


def test_every_unit_is_read_one_span_ahead(vocabulary):
    ids, labels = interleave(vocabulary, UNITS, [5, 6, 7, 8, 9, 10], [1, 3, 1, 1])
    shown = to_string(vocabulary, ids)
    assert shown == "▁▁ˈa<|audio_5|>b<|audio_6|><|audio_7|><|audio_8|>.<|audio_9|><|next|><|audio_10|>"
    label_tokens = [None if label == IGNORED else vocabulary.tokenizer.convert_ids_to_tokens(label) for label in labels]
    turns = [token for token in label_tokens if token]
    assert turns == ["<|audio_5|>", "<|next|>", "<|audio_6|>", "<|audio_7|>", "<|audio_8|>", "<|next|>", "<|audio_9|>",
                     "<|next|>", "<|audio_10|>"]  # fmt: skip
    assert label_tokens[:4] == [None] * 4  # the units are inputs
    differing = [(a, b) for a, b in zip(ids, labels, strict=True) if b != IGNORED and a != b]
    assert {b for _, b in differing} == {vocabulary.control("next")}


def test_a_unit_of_several_ids_has_one_label(vocabulary):
    _, labels = interleave(vocabulary, ["▁", "a", "▁ˈb"], [1, 2, 3], [1, 1, 1])
    next_positions = [i for i, label in enumerate(labels) if label == vocabulary.control("next")]
    assert labels[next_positions[0] + 1 : next_positions[0] + 3] == [IGNORED, IGNORED]


def test_durations_have_to_match_the_codes(vocabulary):
    for codes, frames in (([1, 2], [1, 1, 1]), ([1, 2, 3], [1, 1])):
        with pytest.raises(ValueError, match=r"do not belong to .* align the store again"):
            interleave(vocabulary, ["a", "b", "c"][: len(frames)], codes, frames)


def test_two_codebooks_have_two_ids_in_a_frame():
    vocabulary = Vocabulary.characters(["ab"], [16, 16])
    ids, _ = interleave(vocabulary, ["a", "b"], [1, 17, 2, 18], [1, 1])
    assert vocabulary.codes(ids) == [1, 17, 2, 18]


class Scripted(LlamaForCausalLM):
    """A causal LM that prefers the ids of a list, step by step."""

    def __init__(self, vocabulary, preferred_ids):
        config = LlamaConfig(vocab_size=vocabulary.padded_size, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                             num_attention_heads=1, max_position_embeddings=256)  # fmt: skip
        super().__init__(config)
        self.preferred_ids, self.read = list(preferred_ids), []
        self.config.hidden_act = "gelu"  # so that the general decoder runs it

    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        self.read += [] if input_ids is None else input_ids[0].tolist()
        output = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        logits = torch.zeros_like(output.logits)
        logits[..., self.preferred_ids.pop(0) if self.preferred_ids else 0] = 50.0
        output.logits = logits
        return output


def prompt(vocabulary, length=(1, 4)):
    return TEMPLATES["tts-aligned"].prompt(vocabulary, length, units=UNITS, speaker="abc")


def test_the_model_chooses_when_a_unit_ends_and_the_text_what_follows(vocabulary):
    code, following = vocabulary.audio_offset, vocabulary.control("next")
    # The ids "b", "." and <|next|> are forced, and each of them uses up an item of the list.
    preferred_ids = [
        code + 1,
        following,
        code + 2,
        code + 3,
        following,
        code + 4,
        following,
        code + 5,
        vocabulary.control("end"),
    ]
    model = Scripted(vocabulary, preferred_ids)
    (generation,) = generate(model, vocabulary, [prompt(vocabulary)], Sampling(temperature=0), [0])
    assert generation.codes.tolist() == [1, 2, 3, 4, 5]
    assert len(generation.spans) == 1
    assert generation.stop_reason == "end"
    assert to_string(vocabulary, model.read) == (
        "<|audio_1|>b<|audio_2|><|audio_3|>.<|audio_4|><|next|><|audio_5|>"
    )  # <|next|> is chosen, and the unit is read in its place


def test_a_unit_ends_at_its_maximum_length(vocabulary):
    model = Scripted(vocabulary, [vocabulary.audio_offset + 7] * 99)
    (generation,) = generate(model, vocabulary, [prompt(vocabulary)], Sampling(temperature=0), [0])
    assert generation.codes.tolist() == [7] * 16  # four for each of four units
    assert generation.stop_reason == "max_length"
    assert generation.num_spans_at_max == 4


def test_some_units_at_their_maximum_are_counted_without_changing_the_stop_reason(vocabulary):
    code, following = vocabulary.audio_offset, vocabulary.control("next")
    # The first and the last unit run into their maximum of two codes; the others are closed after one.
    # The third wish is spent on the closing id, which is forced.
    preferred_ids = [code, code, code, code, following, code, following, code, code]
    model = Scripted(vocabulary, preferred_ids)
    (generation,) = generate(model, vocabulary, [prompt(vocabulary, (1, 2))], Sampling(temperature=0), [0])
    assert len(generation.codes) == 6
    assert (generation.stop_reason, generation.num_spans_at_max) == ("end", 2)


def test_units_of_fixed_lengths_are_a_constraint(vocabulary):
    model = Scripted(vocabulary, [vocabulary.audio_offset] * 99)
    (generation,) = generate(model, vocabulary, [prompt(vocabulary, (3, 3))], Sampling(temperature=0), [0])
    assert len(generation.codes) == 12
    assert (generation.stop_reason, generation.num_spans_at_max) == ("constraint", 0)


def test_no_unit_is_skipped(vocabulary):
    model = Scripted(vocabulary, [vocabulary.control("next")] * 99)
    (generation,) = generate(model, vocabulary, [prompt(vocabulary)], Sampling(temperature=0), [0])
    assert len(generation.codes) == 3 + 4  # the last unit has no next one


def test_streamed_codes_equal_those_of_generate(vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary.padded_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=256)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prompts = [
        prompt(vocabulary, (1, 9)),
        TEMPLATES["tts-aligned"].prompt(vocabulary, (1, 9), units=UNITS[:2], speaker="c"),
    ]
    both = generate(model, vocabulary, prompts, Sampling(), [3, 4])
    for one, seed, whole in zip(prompts, (3, 4), both, strict=True):
        (alone,) = generate(model, vocabulary, [one], Sampling(), [seed])
        assert torch.equal(alone.codes, whole.codes)  # batch or alone
        chunks = list(stream(model, vocabulary, one, Sampling(), seed, chunk=3))
        pieces = [chunk.codes for chunk in chunks if chunk.codes]
        assert [code for piece in pieces for code in piece] == whole.codes.tolist()
        assert all(len(piece) == 3 for piece in pieces[:-1])
        unit_lengths = [length for chunk in chunks for length in chunk.unit_lengths]
        assert tuple(unit_lengths) == whole.unit_lengths
        assert len(unit_lengths) == len(one.phases)
        assert sum(unit_lengths) == len(whole.codes)


def test_openings_contain_every_unit_once(vocabulary):
    ids = [i for opening in unit_openings(vocabulary, UNITS) for i in opening]
    assert to_string(vocabulary, ids) == "▁▁ˈab.<|next|>"


def test_unit_lengths_follow_the_distribution_of_the_model(vocabulary):
    """Lengths follow their probabilities at temperature 1, and are nearer to the median at lower temperatures."""
    prompted = TEMPLATES["tts-aligned"].prompt(vocabulary, (1, 60), units=UNITS[:2], speaker="c")
    ranges = allowed_ranges(vocabulary, {"codes"})

    def length(temperature, seed):
        constraint, generator = DecodingConstraint(prompted.phases, ranges), np.random.default_rng(seed)
        count = 1
        while not constraint.should_close(0.2, temperature, generator):
            count += 1
        return count

    drawn = torch.tensor([length(1.0, seed) for seed in range(2000)], dtype=torch.float)
    assert drawn.mean() == pytest.approx(1 / 0.2, rel=0.06)
    assert (drawn == 1).float().mean() == pytest.approx(0.2, abs=0.03)
    half = torch.tensor([length(0.5, seed) for seed in range(500)], dtype=torch.float)
    assert half.std() < 0.6 * drawn.std()
    assert {length(0.0, seed) for seed in range(9)} == {4}  # the first that half of the draws do not exceed


def test_sharp_sampling_of_codes_does_not_shorten_units(vocabulary):
    """Closing has 0.1, each of 32 codes 0.03: if the likeliest of all were taken, every unit would end at once."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary.padded_size, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, max_position_embeddings=256)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.lm_head = torch.nn.Linear(8, vocabulary.padded_size)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        for name in ("next", "end"):
            model.lm_head.bias[vocabulary.control(name)] = 1.27
    (generation,) = generate(model, vocabulary, [prompt(vocabulary, (1, 30))], Sampling(temperature=0), [0])
    assert len(generation.codes) == 4 * 7  # the median, 1 - 0.9 ** 7 > 0.5
