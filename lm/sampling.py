"""Sampling the next id from the logits of the ids that are allowed. B rows, V allowed ids."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from .templates import Template

# The nucleus is searched among this many of the largest weights first: sorting a vocabulary takes longer than a step.
_NUCLEUS_SIZE = 512


@dataclass(frozen=True)
class Sampling:
    """How the next id is sampled.

    Args:
        temperature: 0 is greedy: always the likeliest id.
        top_k: sample from this many of the likeliest ids; 0 for all.
        top_p: sample from the fewest ids that hold this share of the probability.
        min_p: sample from ids with at least this share of the probability of the likeliest one.
        repetition_window: number of last ids to look at. An id that fills more of them than `repetition_limit` is
            sampled again from all ids (repetition-aware sampling of VALL-E 2, arXiv 2406.05370); 0 turns it off.
        repetition_limit: that share.
        bitwise: do not sample codes. Each bit of a code becomes the value that holds most of the probability, so that
            the expected number of wrong bits is smallest (minimum Bayes risk). Only the end of a span is still sampled.
            Needs a codec whose codes are bits.
        guidance: above 1, move the logits away from those without the input segments (classifier-free guidance).
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
        limits = {
            "temperature": (0 <= self.temperature < math.inf, "temperature >= 0"),
            "top_k": (self.top_k >= 0, "top_k >= 0"),
            "top_p": (0 < self.top_p <= 1, "0 < top_p <= 1"),
            "min_p": (0 <= self.min_p < 1, "0 <= min_p < 1"),
            "repetition_window": (self.repetition_window >= 0, "repetition_window >= 0"),
            "repetition_limit": (0 <= self.repetition_limit <= 1, "0 <= repetition_limit <= 1"),
            "guidance": (1 <= self.guidance < math.inf, "guidance >= 1 (1: off)"),
        }
        for name, (is_within, limit) in limits.items():
            if not is_within:
                raise ValueError(f"sampling needs {limit}, found {getattr(self, name)}")
        if self.repetition_window and not self.temperature:
            raise ValueError(
                "sampling needs temperature > 0 for a repetition_window: greedy ids cannot be sampled again"
            )


def generation_defaults(template: Template, code_bits: int) -> Sampling:
    """Default sampling for a template: greedy for text; for speech, freer the less the input constrains the output.

    Args:
        template: of the task.
        code_bits: bits of a code if the codec's codes are bits, else 0, see `SpeechLM.code_bits`.
    """
    greedy = Sampling(temperature=0.0)
    if template.target.kind == "text":
        return greedy
    if template.target.kind == "aligned":
        # The text constrains every unit, so only the pronunciation is open. With greedy sampling units have their
        # median length, which listeners and recognizers understand best.
        if code_bits:
            return replace(greedy, bitwise=True)
        return Sampling(temperature=0.3, top_p=0.9)
    given_kinds = {segment.kind for segment in template.segments[:-1]}
    if not given_kinds or "text" in given_kinds:
        return Sampling()
    # Another recording constrains every frame. Greedy sampling is no choice: after a pause it stays silent.
    return Sampling(temperature=0.6, top_p=0.9, bitwise=code_bits > 0)


def sample(
    logits: Tensor, sampling: Sampling, generators: Sequence[Generator], recent: Sequence[Sequence[int]]
) -> list[int]:
    """Sample one column of the logits for each row, independently of the other rows.

    Args:
        logits: (B, V).
        sampling: how.
        generators: one for each row.
        recent: for each row the columns that it sampled last, at most `repetition_window`.

    Raises:
        ValueError: the logits are not finite.
    """
    # The maximum is not a number if one of the logits is not.
    peak, likeliest = logits.max(-1, keepdim=True)
    if not all(map(math.isfinite, peak.flatten().tolist())):
        raise ValueError(
            "the model gives logits that are not finite: its weights are damaged or its training diverged; "
            "half precision can overflow too: load it with dtype=torch.float32"
        )
    if not sampling.temperature:
        return likeliest.flatten().tolist()
    probabilities = ((logits - peak).float() / sampling.temperature).softmax(-1)
    columns = _pick(_truncate(probabilities, sampling), generators)
    if not sampling.repetition_window:
        return columns
    # Always pick a replacement, so that a row takes the same random numbers whether it needs one or not.
    replacements = _pick(probabilities, generators)
    limit = sampling.repetition_limit * sampling.repetition_window
    for row, column in enumerate(columns):
        if list(recent[row]).count(column) > limit:
            columns[row] = replacements[row]
    return columns


def likeliest_bits(logits: Tensor) -> list[int]:
    """Return the code of each row (B, 2 ** b) whose every bit is the likelier one; a tie gives 0."""
    width = logits.shape[-1]
    num_bits = width.bit_length() - 1
    assert width == 1 << num_bits
    # In double precision, because the sum over many codes is often so near to a half that rounding would decide. Not
    # every device has doubles.
    is_one = logits.cpu().double().softmax(-1) @ _code_bits(num_bits) > 0.5
    return (is_one.long() << torch.arange(num_bits)).sum(-1).tolist()


@lru_cache
def _code_bits(num_bits: int) -> Tensor:
    """Return the bits of every code (2 ** b, b) as doubles. Cached, since every step needs them."""
    codes = torch.arange(1 << num_bits)
    return ((codes[:, None] >> torch.arange(num_bits)) & 1).double()


def _truncate(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """Set probabilities to zero outside of top-k, then of top-p, then of min-p."""
    kept = probabilities
    if 0 < sampling.top_k < kept.shape[-1]:
        kept = kept.masked_fill(kept < kept.topk(sampling.top_k).values[:, -1:], 0)
    if sampling.top_p < 1:
        kept = kept.masked_fill(kept < _nucleus_threshold(kept, sampling.top_p), 0)
    if sampling.min_p:
        kept = kept.masked_fill(kept < sampling.min_p * kept.amax(-1, keepdim=True), 0)
    return kept


def _nucleus_threshold(weights: Tensor, share: float) -> Tensor:
    """Return the smallest weight (B, 1) among the fewest that hold a share of the sum."""
    needed = share * weights.sum(-1, keepdim=True)
    top = weights.topk(min(_NUCLEUS_SIZE, weights.shape[-1])).values
    if (top.sum(-1, keepdim=True) < needed).any():
        top = weights.sort(-1, descending=True).values
    sum_before = top.cumsum(-1) - top
    return top.masked_fill(sum_before >= needed, torch.inf).amin(-1, keepdim=True)


def _pick(weights: Tensor, generators: Sequence[Generator]) -> list[int]:
    """Pick a column of each row with a probability in proportion to its weight.

    The pick has the largest quotient of weight and exponential noise, which is the Gumbel-max trick (Maddison, Tarlow
    and Minka, 2014, arXiv 1411.0030). Each column has noise of its own, so an error e in the logarithms of the weights
    changes a pick only if the two largest quotients are that close, with a probability below 2 e. Inverting the
    cumulative sum would move the edges of all columns, and change a pick near any of them.
    """
    rows = [generator.standard_exponential(weights.shape[-1]) for generator in generators]
    # The noise can be 0, by which a weight of 0 cannot be divided.
    noise = torch.from_numpy(np.stack(rows)).clamp_min(1e-300)
    return (weights.cpu() / noise).argmax(-1).tolist()
