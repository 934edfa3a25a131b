"""Code usage and computational cost of a codec. K codebooks, L ids, T samples."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ....tokenizer import AudioTokenizer
from ....tokenizer.training.validation import code_use


@dataclass(frozen=True)
class Cost:
    """What a codec costs.

    Args:
        parameters: of the whole codec.
        encoder_macs: multiply-accumulate operations per second of audio, of matrix products and convolutions.
        decoder_macs: the same, of decoding.
    """

    parameters: int
    encoder_macs: float
    decoder_macs: float


def codec_cost(tokenizer: AudioTokenizer, seconds: float = 10.0) -> Cost:
    """Measured on noise, which costs as much as speech."""
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(round(seconds * tokenizer.sampling_rate), generator=generator)
    ids = tokenizer(wave)["input_ids"][0]
    return Cost(
        parameters=sum(p.numel() for p in tokenizer.codec.parameters()),
        encoder_macs=macs(lambda: tokenizer(wave)) / seconds,
        decoder_macs=macs(lambda: tokenizer.decode(ids)) / seconds,
    )


def macs(call: Callable[[], object]) -> float:
    """Multiply-accumulate operations of a call: half of the floating-point operations that torch counts."""
    # It counts only what is made of matrix products and convolutions, as fused attention and LSTMs are not.
    fused_off = torch.backends.mkldnn.flags(enabled=False)
    with warnings.catch_warnings(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        warnings.filterwarnings("ignore", "TF32")  # which is none of ours, but set along
        with sdpa_kernel(SDPBackend.MATH), fused_off:
            call()
    return counter.get_total_flops() / 2


def code_figures(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`codes_used` of `codes` in `tokens`, and `code_usage`, their share.

    `entropy_bits`, `normalised_entropy` (divided by the logarithm of the number of codes that occur) and `code_share`
    (of those that even use would show) are means over the codebooks.

    Args:
        lines: with `codes`, the ids (L,) of an `AudioTokenizer`, and `codebook_sizes` of its K codebooks.
    """
    sizes = lines[0]["codebook_sizes"]
    ids = torch.tensor([code for line in lines for code in line["codes"]])
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    books = [ids[(ids >= start) & (ids < start + size)] - start for start, size in zip(starts, sizes, strict=True)]
    uses = [code_use(book, size) for book, size in zip(books, sizes, strict=True)]
    used = int(sum(use["codes_used"] for use in uses))
    means = {
        key: float(np.mean([use[key] for use in uses])) for key in ("code_share", "entropy_bits", "normalised_entropy")
    }
    return {"tokens": len(ids), "codes_used": used, "codes": sum(sizes), "code_usage": used / sum(sizes), **means}
