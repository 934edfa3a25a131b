"""Drawing the next id from the logits of those that are allowed. B rows, V allowed ids."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Generator, Tensor

from .templates import Template

_WIDE = 512  # the nucleus is looked for among this many first: sorting a whole vocabulary takes longer than a step


@dataclass(frozen=True)
class Sampling:
    """How the next id is drawn.

    Args:
        temperature: 0 takes the likeliest.
        top_k: only from this many of the likeliest; 0: from all.
        top_p: only from the fewest that hold this share of the probability.
        min_p: only from those with at least this share of the likeliest one's probability.
        repetition_window: ids to look back at; an id that fills more of them than `repetition_limit` is drawn anew from
            all ids (repetition-aware sampling of VALL-E 2, arXiv 2406.05370); 0: off.
        repetition_limit: that share.
        bitwise: codes are not drawn: each bit of one is that which most of the probability has, so that the fewest
            wrong bits are to be expected (minimum Bayes risk). What is left to draw is where a span ends. Only for
            codecs whose codes are bits.
        guidance: above 1, logits are moved away from those without the given segments (classifier-free guidance).
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_window: int = 0
    repetition_limit: float = 0.1
    bitwise: bool = False
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0 or not 0 <= self.min_p < 1:
            raise ValueError(
                f"sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and 0 <= min_p < 1, found {self}"
            )
        if self.repetition_window < 0 or not 0 <= self.repetition_limit <= 1 or not 1 <= self.guidance < math.inf:
            raise ValueError(
                "sampling needs repetition_window >= 0, 0 <= repetition_limit <= 1 and guidance >= 1 (1: off), "
                f"found {self}"
            )
        if self.repetition_window and not self.temperature:
            raise ValueError("sampling needs temperature > 0 for a repetition_window: greedy ids cannot be drawn anew")


_GREEDY = Sampling(temperature=0.0)
_FAITHFUL = Sampling(temperature=0.6, top_p=0.9)  # greedy, a talker who pauses is silent ever after
_CLEAR = Sampling(temperature=0.3, top_p=0.9)  # the text is given unit by unit: what is left to choose is how it sounds


def generation_defaults(template: Template, code_bits: int) -> Sampling:
    """The likeliest text; speech is drawn, the more freely the less of it is given.

    Where it is given frame by frame, as another recording or by an aligned text, nothing is drawn if codes are bits;
    units of an aligned text then last as long as is most usual, which is understood best (docs/lab-notes.md).
    """
    if template.target.kind == "text":
        return _GREEDY
    given = {segment.kind for segment in template.segments[:-1]}
    if template.target.kind != "aligned" and (not given or "text" in given):
        return Sampling()
    if template.target.kind == "aligned":
        return replace(_GREEDY, bitwise=True) if code_bits else _CLEAR
    return replace(_FAITHFUL, bitwise=code_bits > 0)


def sample(
    logits: Tensor, sampling: Sampling, generators: Sequence[Generator], recent: Sequence[Sequence[int]]
) -> list[int]:
    """One column of logits (B, V) for each row.

    A row's draw depends on its logits and its generator only, never on the rows beside it.

    Args:
        generators: one for each row, on the CPU.
        recent: the columns that each row drew last, `repetition_window` of them at most.

    Raises:
        ValueError: logits that are not numbers.
    """
    peak, likeliest = logits.max(-1, keepdim=True)  # not a number if one of them is not
    if not all(map(math.isfinite, peak.flatten().tolist())):
        raise ValueError(
            "the model gives logits that are not finite: its weights are damaged or its training diverged; "
            "half precision can overflow too: load it with dtype=torch.float32"
        )
    if not sampling.temperature:
        return likeliest.flatten().tolist()
    probabilities = ((logits - peak).float() / sampling.temperature).softmax(-1)
    columns = _pick(_truncated(probabilities, sampling), generators)
    if not sampling.repetition_window:
        return columns
    limit = sampling.repetition_limit * sampling.repetition_window
    others = _pick(probabilities, generators)
    return [b if list(r).count(a) > limit else a for a, b, r in zip(columns, others, recent, strict=True)]


def likeliest_bits(logits: Tensor) -> list[int]:
    """The code of each row (B, 2 ** b) whose every bit is the likelier one; a tie is a 0."""
    width = logits.shape[-1]
    bits = width.bit_length() - 1
    assert width == 1 << bits
    ones = logits.float().softmax(-1) @ _planes(bits, logits.device)
    return ((ones > 0.5).long() << torch.arange(bits, device=logits.device)).sum(-1).tolist()


@lru_cache
def _planes(bits: int, device: torch.device) -> Tensor:
    """(2 ** b, b) float: the bits of every code; kept, since every id that is written asks for them."""
    codes, places = torch.arange(1 << bits, device=device), torch.arange(bits, device=device)
    return ((codes[:, None] >> places) & 1).float()


def _truncated(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """Zero outside of top-k, then of top-p, then of min-p."""
    kept = probabilities
    if 0 < sampling.top_k < kept.shape[-1]:
        kept = kept.masked_fill(kept < kept.topk(sampling.top_k).values[:, -1:], 0)
    if sampling.top_p < 1:
        kept = kept.masked_fill(kept < _edge(kept, sampling.top_p), 0)
    if sampling.min_p:
        kept = kept.masked_fill(kept < sampling.min_p * kept.amax(-1, keepdim=True), 0)
    return kept


def _edge(weights: Tensor, share: float) -> Tensor:
    """(B, 1): the smallest weight among the fewest that hold a share of the sum."""
    size = weights.shape[-1]
    needed = share * weights.sum(-1, keepdim=True)
    top = weights.topk(min(_WIDE, size)).values
    if (top.sum(-1, keepdim=True) < needed).any():
        top = weights.sort(-1, descending=True).values
    before = top.cumsum(-1) - top
    return top.masked_fill(before >= needed, torch.inf).amin(-1, keepdim=True)


def _pick(weights: Tensor, generators: Sequence[Generator]) -> list[int]:
    """A column of each row, with a probability in proportion to its weight: where a uniform number falls."""
    sums = weights.cpu().cumsum(-1, dtype=torch.float64)
    points = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    return torch.searchsorted(sums, points * sums[:, -1:], right=True).flatten().tolist()
