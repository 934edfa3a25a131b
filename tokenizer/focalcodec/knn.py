"""One-shot voice conversion by nearest neighbours (Baas et al., 2023, arXiv 2305.18975), no training involved.

B batch, N query frames, P frames of the target speaker, D feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 1 << 12  # target frames that are compared at a time


def nearest(queries: Tensor, matching_set: Tensor, topk: int = 4) -> Tensor:
    """The `topk` rows of the matching set with the smallest cosine distance to each query, nearest first.

    Args:
        queries: (B, N, D).
        matching_set: (P, D), P >= topk; any number of rows, which are searched piece by piece.

    Returns:
        (B, N, topk, D)

    Raises:
        ValueError: widths differ, or there are fewer rows than `topk`.
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
    for start in range(0, len(matching_set), _ROWS):
        rows = F.normalize(matching_set[start : start + _ROWS].float(), dim=-1)
        similarity, found = (directions @ rows.T).topk(min(topk, len(rows)), dim=-1)
        best, index = torch.cat([best, similarity], dim=-1), torch.cat([index, found + start], dim=-1)
        best, order = best.topk(min(topk, best.shape[-1]), dim=-1)
        index = index.gather(-1, order)
    return matching_set[index]
