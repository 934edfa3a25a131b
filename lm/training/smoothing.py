"""Codes learnt together with those that sound most like them. T targets, V ids, b bits of a code."""

import torch
from torch import Tensor


def smoothed_nats(logits: Tensor, targets: Tensor, codes: range, bits: int, share: float) -> Tensor:
    """The cross entropy with targets of which a share lies on the b codes that differ in one bit.

    Label smoothing (Szegedy et al., 2016, arXiv 1512.00567, section 7) where the codebook says which labels are alike.

    Args:
        logits: (T, V).
        targets: (T,) ids; those that are no codes have no neighbours and keep everything.
        codes: the audio ids.
        bits: b.
        share: of the neighbours.

    Returns:
        (T,) nats.
    """
    flips = torch.tensor([1 << bit for bit in range(bits)] or [0], device=targets.device)
    is_code = (targets >= codes.start) & (targets < codes.stop)
    near = torch.where(is_code[:, None], codes.start + ((targets - codes.start)[:, None] ^ flips), targets[:, None])
    logarithms = logits.float().log_softmax(-1)
    own = logarithms.gather(1, targets[:, None])[:, 0]
    return -(1 - share) * own - share * logarithms.gather(1, near).mean(1)
