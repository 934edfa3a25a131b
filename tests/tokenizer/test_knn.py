"""Nearest neighbors, searched in pieces, equal those of a plain search, and malformed input is refused."""

import pytest
import torch

from focallm.tokenizer.focalcodec import knn


@pytest.mark.parametrize("rows", [1, 3, 7, 4096])  # rows that are compared at a time
@pytest.mark.parametrize("topk", [1, 4, 40])
def test_equals_a_plain_search(monkeypatch, rows: int, topk: int) -> None:
    monkeypatch.setattr(knn, "_PIECE", rows)
    torch.manual_seed(0)
    queries, matching_set = torch.randn(2, 11, 6), torch.randn(40, 6)
    distance = 1 - torch.nn.functional.cosine_similarity(queries[:, :, None], matching_set, dim=-1)
    expected = matching_set[distance.argsort(dim=-1)[..., :topk]]
    assert torch.equal(knn.nearest(queries, matching_set, topk), expected)


def test_a_query_of_any_length_finds_itself() -> None:
    torch.manual_seed(0)
    matching_set = torch.randn(50, 8)
    assert torch.equal(knn.nearest(3 * matching_set[None], matching_set, 1)[0, :, 0], matching_set)


def test_half_precision_is_searched_in_float32() -> None:
    torch.manual_seed(0)
    queries, matching_set = torch.randn(1, 5, 8).bfloat16(), torch.randn(9, 8).bfloat16()
    found = knn.nearest(queries, matching_set)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.float(), knn.nearest(queries.float(), matching_set.float()))


@pytest.mark.parametrize(
    ("shape", "topk", "message"),
    [
        ((3, 5), 1, r"must be \(P, 8\)"),
        ((1, 9, 8), 1, r"extract_features\(reference\)\[0\]"),
        ((3, 8), 4, r"1 \.\.\. 3"),
    ],
)
def test_malformed_input_is_refused(shape: tuple[int, ...], topk: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn.nearest(torch.randn(1, 2, 8), torch.randn(shape), topk)


def test_decode_needs_one_matching_set_per_item(codec) -> None:
    model = codec("tiny_50hz")
    with pytest.raises(ValueError, match="found 2 for 1 items"):
        model.decode(torch.zeros(1, 4, dtype=torch.long), matching_set=[torch.randn(8, 32)] * 2)
