r"""The entropy loss of binary codes (Zhao et al., 2024, arXiv 2406.07548). F frames, K bits, G bits of a group.

A frame u is assigned softly to the 2^K codes c = (+-a, ..., +-a): p(c) = softmax(2 t u.c) with the inverse temperature
t. Since u.c is a sum over bits, so p is a product over bits: p(c) = prod_k sigmoid(4 t a u_k s_k), s_k = +-1. Bits are
independent given the frame, and the entropy of a frame's assignment is exactly the sum over its bits, or over groups of
bits: enumerating 2^G codes per group gives the same number as enumerating 2^K.

The assignment's mean over frames is no product, because bits of speech depend on each other. Its entropy is at most the
sum of its groups' entropies (subadditivity), with equality if the groups are independent over the corpus. So groups
smaller than K are cheap, and blind to dependence between bits of different groups: they say the codes are used more
evenly than they are. G = K is exact, and what the published codec was trained with.
"""

import itertools

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..focalcodec.quantizer import LookupFreeQuantizer

_ENTRIES = 1 << 22  # of a table frames x codes: 16 MB; 16 frames x 4 s x 8192 codes at once would be 100 times that


def entropy_loss(
    latents: Tensor,
    quantizer: LookupFreeQuantizer,
    inverse_temperature: float = 100.0,
    bits: int = 0,
    at_once: int = 0,
) -> Tensor:
    """Mean entropy of single frames minus the entropy of their mean assignment, in nats.

    Low when each frame is sure of its code and all codes are used.

    Args:
        latents: (F, K), of real frames only. (The published recipe counts padding as well.)
        quantizer: knows the codes.
        inverse_temperature: t above.
        bits: G above; 0 for K.
        at_once: entries of a table that exist together; memory does not grow with F beyond it.
    """
    latents = latents.float()
    total = latents.new_zeros(())
    for group in latents.split(bits or latents.shape[1], dim=1):
        total = total + _group_loss(group, quantizer.scale, inverse_temperature, at_once or _ENTRIES)
    return total


def _group_loss(latents: Tensor, size: float, inverse_temperature: float, at_once: int) -> Tensor:
    """(F, G) -> entropy of a frame's assignment to the 2^G codes, minus that of the mean assignment."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=latents.shape[1])), device=latents.device)
    codes = signs * (2 * inverse_temperature * size)
    single = latents.new_zeros(())
    mean = latents.new_zeros(len(codes))
    for chunk in latents.split(max(1, at_once // len(codes))):
        # The table of a chunk is computed again in the backward pass instead of being kept.
        entropies, probabilities = checkpoint(_assign, chunk, codes, use_reentrant=False, preserve_rng_state=False)
        single, mean = single + entropies / len(latents), mean + probabilities / len(latents)
    return single - _entropy(_over_processes(mean))


def _assign(latents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """(F, G), (2^G, G) -> sum over frames of the entropy (), and of the probabilities (2^G,)"""
    probabilities = torch.softmax(latents @ codes.T, dim=-1)
    return _entropy(probabilities).sum(), probabilities.sum(dim=0)


def _over_processes(mean: Tensor) -> Tensor:
    """The mean of all processes that share a batch: whether all codes are used is a question to the whole batch."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    from torch.distributed.nn.functional import all_reduce  # not in a torch that was built without processes

    return all_reduce(mean) / dist.get_world_size()  # its gradients are added up in the same way


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=1e-5).log()).sum(dim=-1)
