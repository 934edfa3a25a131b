"""One-shot voice conversion by nearest neighbors (kNN-VC, Baas et al., 2023, arXiv 2305.18975). It needs no training.

B batch, N query frames, P frames of the target speaker, D feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_PIECE = 1 << 12  # frames of the target speaker that are compared at a time, to bound the memory


def match_features(features: Tensor, matching_set: Tensor | list[Tensor], topk: int = 4) -> Tensor:
    """Replace each frame by the mean of its nearest frames of the target speaker.

    Args:
        features: (B, N, D).
        matching_set: (P, D) for all items, or a list with one for each item.
        topk: number of frames to average.

    Returns:
        (B, N, D)

    Raises:
        ValueError: The number of matching sets differs from that of the items, or `nearest` raises it.
    """
    sets = [matching_set] * len(features) if isinstance(matching_set, Tensor) else matching_set
    if len(sets) != len(features):
        raise ValueError(f"matching_set needs one entry per item, found {len(sets)} for {len(features)} items")
    converted = []
    for item, item_set in zip(features, sets, strict=True):
        converted.append(nearest(item[None], item_set, topk).mean(dim=2))
    return torch.cat(converted).to(features.dtype)


def nearest(queries: Tensor, matching_set: Tensor, topk: int = 4) -> Tensor:
    """Find the `topk` rows of the matching set with the smallest cosine distance to each query, nearest first.

    Args:
        queries: (B, N, D).
        matching_set: (P, D) with P >= topk. Large sets are searched piece by piece.
        topk: number of rows per query.

    Returns:
        (B, N, topk, D)

    Raises:
        ValueError: The widths differ, or there are fewer rows than `topk`.
    """
    if matching_set.ndim != 2 or matching_set.shape[1] != queries.shape[-1]:
        raise ValueError(
            f"matching_set must be (P, {queries.shape[-1]}) continuous features, found {tuple(matching_set.shape)}: "
            "pass extract_features(reference)[0] of the same codec"
        )
    if not 1 <= topk <= matching_set.shape[0]:
        raise ValueError(f"topk must lie in 1 ... {matching_set.shape[0]} (rows of matching_set), found {topk}")
    directions = F.normalize(queries.float(), dim=-1)
    matching_set = matching_set.to(queries.device)
    best = directions.new_empty((*queries.shape[:2], 0))
    index = torch.empty_like(best, dtype=torch.long)
    for start in range(0, len(matching_set), _PIECE):
        rows = F.normalize(matching_set[start : start + _PIECE].float(), dim=-1)
        similarity, found = (directions @ rows.T).topk(min(topk, len(rows)), dim=-1)
        # Keep the best of this piece and of those before it.
        best = torch.cat([best, similarity], dim=-1)
        index = torch.cat([index, found + start], dim=-1)
        best, order = best.topk(min(topk, best.shape[-1]), dim=-1)
        index = index.gather(-1, order)
    return matching_set[index]
