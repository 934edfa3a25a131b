"""Code patterns are reversible for any shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from focallm.tokenizer.codecs.pattern import CodePattern

sizes = st.lists(st.integers(1, 50), min_size=1, max_size=5).map(tuple)


def random_codes(codebook_sizes, frames, seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(size, (*batch, frames), generator=generator) for size in codebook_sizes]
    return torch.stack(rows, dim=-2)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 20), st.integers(0, 9), st.sampled_from(["flatten", "delay"]), st.sampled_from([(), (3,)]))
def test_revert_undoes_apply(codebook_sizes, frames, seed, kind, batch):
    pattern = CodePattern(codebook_sizes, kind)
    codes = random_codes(codebook_sizes, frames, seed, batch)
    ids = pattern.apply(codes)
    assert torch.equal(pattern.revert(ids), codes)
    assert ids.numel() == 0 or int(ids.max()) < pattern.vocab_size


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 20), st.integers(0, 9), st.sampled_from(["flatten", "delay"]), st.data())
def test_a_cut_stream_gives_its_whole_frames(codebook_sizes, frames, seed, kind, data):
    pattern = CodePattern(codebook_sizes, kind)
    codes = random_codes(codebook_sizes, frames, seed)
    ids = pattern.apply(codes)
    kept = data.draw(st.integers(0, ids.shape[-1]))
    K = len(codebook_sizes)
    whole = kept // K if kind == "flatten" else max(0, kept - K + 1)
    assert torch.equal(pattern.revert(ids[..., :kept]), codes[:, :whole])


def test_flatten_is_time_major_with_offsets():
    pattern = CodePattern((10, 5))
    assert pattern.apply(torch.tensor([[1, 2, 3], [4, 0, 1]])).tolist() == [1, 14, 2, 10, 3, 11]
    assert pattern.vocab_size == 15


def test_delay_shifts_each_codebook_by_one_more_step():
    pattern = CodePattern((10, 5), "delay")
    assert pattern.pad_id == 10
    assert pattern.vocab_size == 11
    assert pattern.apply(torch.tensor([[1, 2, 3], [4, 0, 1]])).tolist() == [[1, 2, 3, 10], [10, 4, 0, 1]]


def test_errors_name_the_problem():
    pattern = CodePattern((10, 5))
    with pytest.raises(ValueError, match=r"frame 1 has the code 7 for codebook 1, which holds 0 ... 4"):
        pattern.apply(torch.tensor([[1, 2], [3, 7]]))
    with pytest.raises(ValueError, match="does not begin with a whole frame"):
        pattern.revert(torch.tensor([14, 2]))
    with pytest.raises(ValueError, match=r"codes must be \(..., 2, N\)"):
        pattern.apply(torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="delayed ids must be"):
        CodePattern((10, 5), "delay").revert(torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="one positive size"):
        CodePattern(())
    with pytest.raises(ValueError, match="kind must be"):
        CodePattern((2,), "parallel")
