"""How evenly a codec's codes are used. K codebooks, L ids."""

from collections.abc import Sequence

import numpy as np
import torch

from ....tokenizer.training.validation import code_use
from .sample import Line


def code_figures(lines: Sequence[Line]) -> Line:
    """`codes_used` of `codes` in `tokens`, and `code_usage`, their share.

    `entropy_bits`, `normalised_entropy` (divided by the logarithm of the number of codes that occur) and `code_share`
    (of those that even use would show) are means over the codebooks.

    Args:
        lines: with `codes`, the ids (L,) of an `AudioTokenizer`, and `codebook_sizes` of its K codebooks.
    """
    sizes = lines[0].get("codebook_sizes") or [lines[0]["codebook_size"]]  # the latter in records of old
    ids = torch.tensor([code for line in lines for code in line["codes"]])
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    books = [ids[(ids >= start) & (ids < start + size)] - start for start, size in zip(starts, sizes, strict=True)]
    uses = [code_use(book, size) for book, size in zip(books, sizes, strict=True)]
    used = int(sum(use["codes_used"] for use in uses))
    means = {
        key: float(np.mean([use[key] for use in uses])) for key in ("code_share", "entropy_bits", "normalised_entropy")
    }
    return {"tokens": len(ids), "codes_used": used, "codes": sum(sizes), "code_usage": used / sum(sizes), **means}
