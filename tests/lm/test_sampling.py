import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focallm.lm import SpeechLM
from focallm.lm.pieces import aligned_prompts
from focallm.lm.sampling import Sampling, likeliest_bits, sample


def drawn(logits, sampling, seed=0, times=300, recent=()):
    """Sample columns repeatedly from the same logits."""
    generator = np.random.default_rng(seed)
    return [sample(torch.tensor([logits]), sampling, [generator], [recent])[0] for _ in range(times)]


PROBABILITIES = torch.tensor([0.4, 0.3, 0.2, 0.1])
LOGITS = PROBABILITIES.log().tolist()


def test_temperature_zero_is_greedy():
    assert drawn([0.0, 3.0, 2.9], Sampling(temperature=0), times=3) == [1, 1, 1]


def test_likeliest_bits_make_the_code_with_the_fewest_wrong_bits_expected():
    torch.manual_seed(0)
    logits = 3 * torch.randn(20, 16)
    codes = torch.arange(16)
    wrong = sum(((codes[:, None] ^ codes) >> bit) & 1 for bit in range(4)).float()  # (16, 16) bits that differ
    expected = (logits.softmax(-1) @ wrong).argmin(-1)
    assert likeliest_bits(logits) == expected.tolist()
    of_three = torch.zeros(1, 8)
    of_three[0, [0, 3, 5]] = torch.tensor([0.34, 0.33, 0.33])
    assert likeliest_bits(of_three.log()) == [1]  # which is impossible itself


def test_samples_follow_the_probabilities():
    columns = torch.tensor(drawn(LOGITS, Sampling(temperature=1, top_p=1), times=4000))
    assert torch.allclose(columns.bincount(minlength=4) / 4000, PROBABILITIES, atol=0.03)


def test_temperature_sharpens():
    columns = torch.tensor(drawn(LOGITS, Sampling(temperature=0.5, top_p=1), times=4000))
    expected = PROBABILITIES.square() / PROBABILITIES.square().sum()
    assert torch.allclose(columns.bincount(minlength=4) / 4000, expected, atol=0.03)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 9}, {0, 1, 2, 3}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"top_p": 0.01}, {0}),
        ({"min_p": 0.6}, {0, 1}),
        ({"top_k": 3, "top_p": 0.8, "min_p": 0.7}, {0, 1}),  # of 4/9, 3/9, 2/9
    ],
)
def test_only_kept_ids_are_sampled(values, kept):
    assert set(drawn(LOGITS, Sampling(**{"temperature": 1, "top_p": 1.0, **values}))) == kept


def test_a_nucleus_larger_than_the_first_search_is_complete():
    columns = drawn([0.0] * 2000, Sampling(temperature=1, top_p=0.99), times=2000)
    assert max(columns) > 1500
    assert min(columns) < 500


def test_an_id_that_repeats_too_often_is_sampled_from_all():
    logits = [10.0, 0.0, 0.0, 0.0]
    sampling = Sampling(temperature=4, top_k=1, top_p=1, repetition_window=4, repetition_limit=0.5)
    assert set(drawn(logits, sampling, recent=[0, 0, 1, 2])) == {0}  # two of four are not more than half
    assert set(drawn(logits, sampling, recent=[0, 0, 0, 1])) == {0, 1, 2, 3}


def test_rows_are_sampled_independently():
    torch.manual_seed(0)
    logits = torch.randn(5, 700) * 3
    sampling = Sampling(repetition_window=3)
    alone = [sample(logits[i : i + 1], sampling, [np.random.default_rng(i)], [[]]) for i in range(5)]
    together = sample(logits, sampling, [np.random.default_rng(i) for i in range(5)], [[]] * 5)
    assert together == [column for (column,) in alone]


def test_rounding_rarely_decides_a_draw():
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3000, 1000, generator=rng)
    errors = 1e-4 * (2 * torch.rand(logits.shape, generator=rng) - 1)

    def draw(logits):
        return sample(logits, Sampling(1.0), [np.random.default_rng(i) for i in range(3000)], [[]] * 3000)

    changed = np.not_equal(draw(logits), draw(logits + errors))
    # The expected number is below 2 e = 0.6 of 3000.
    assert changed.sum() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_batching_does_not_change_what_the_shipped_model_says(temperature):
    lm = SpeechLM.from_pretrained("mini")
    words = np.random.default_rng(0).permutation(sorted(lm.lexicon)).tolist()
    prompts = []
    for i in range(64):
        text = " ".join(words[8 * i : 8 * i + 8])
        prompts += aligned_prompts(lm, lm.info.template("tts-aligned"), text, speaker=lm.info.voices[i % 20])
    assert len(prompts) == 64
    together = lm.generate(prompts, sampling=Sampling(temperature), seed=range(64))
    num_changed = 0
    for i, prompt in enumerate(prompts):
        alone = lm.generate(prompt, sampling=Sampling(temperature), seed=i)
        num_changed += not torch.equal(together[i].codes, alone.codes)
    # Rounding decides less than one in some hundreds, see docs/tasks.md.
    assert num_changed <= 1


def test_small_temperatures_do_not_overflow():
    assert set(drawn([3e4, 2.9e4, -torch.inf], Sampling(temperature=1e-6), times=5)) == {0}


@given(
    st.lists(st.one_of(st.floats(-50, 50), st.just(-torch.inf)), min_size=1, max_size=12).filter(
        lambda values: max(values) > -torch.inf
    ),
    st.builds(
        Sampling,
        temperature=st.floats(0.05, 5),
        top_k=st.integers(0, 14),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 0.99),
        repetition_window=st.integers(0, 3),
        repetition_limit=st.floats(0, 1),
    ),
    st.integers(0, 100),
)
def test_impossible_ids_are_never_sampled(logits, sampling, seed):
    for column in drawn(logits, sampling, seed, times=3, recent=[0, 0, 0]):
        assert logits[column] > -torch.inf


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(wrong):
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="not finite"):
            drawn([0.0, wrong], Sampling(temperature=temperature))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 1},
        {"repetition_window": -1},
        {"repetition_limit": 2},
        {"guidance": 0.5},
        {"temperature": 0, "repetition_window": 3},
    ],
)
def test_invalid_sampling_is_refused(values):
    with pytest.raises(ValueError, match="sampling needs"):
        Sampling(**values)
