"""Computational cost and code usage of a codec. K codebooks, L ids, T samples."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ....tokenizer.audio_tokenizer import AudioTokenizer
from ....tokenizer.codec import code_usage


@dataclass(frozen=True)
class Cost:
    """Size and computational cost of a codec.

    Args:
        parameters: Number of parameters of the whole codec.
        encoder_macs: Multiply-accumulate operations per second of audio, of matrix products and convolutions.
        decoder_macs: The same for decoding.
    """

    parameters: int
    encoder_macs: float
    decoder_macs: float


def codec_cost(tokenizer: AudioTokenizer, seconds: float = 10.0) -> Cost:
    """Measure the cost of a codec on `seconds` of noise, which costs as much as speech."""
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(round(seconds * tokenizer.sampling_rate), generator=generator)
    ids = tokenizer(wave)["input_ids"][0]
    return Cost(
        parameters=sum(p.numel() for p in tokenizer.codec.parameters()),
        encoder_macs=macs(lambda: tokenizer(wave)) / seconds,
        decoder_macs=macs(lambda: tokenizer.decode(ids)) / seconds,
    )


def macs(call: Callable[[], object]) -> float:
    """Count the multiply-accumulate operations of a call: half of the floating-point operations that torch counts."""
    # The counter sees matrix products and convolutions, but not fused attention and LSTMs: turn the fused kernels off.
    fused_off = torch.backends.mkldnn.flags(enabled=False)
    with warnings.catch_warnings(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        # Setting the mkldnn flags also sets TF32, which warns.
        warnings.filterwarnings("ignore", "TF32")
        with sdpa_kernel(SDPBackend.MATH), fused_off:
            call()
    return counter.get_total_flops() / 2


def code_figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure how evenly a codec uses its codes.

    Args:
        results: Results of one system, with `codes`, the ids (L,) of an `AudioTokenizer`, and `codebook_sizes` of its K
            codebooks.

    Returns:
        `tokens`: Number of ids.
        `codes_used`, `codes`, `code_usage`: Number of codes that occur, of all codes, and their ratio.
        `entropy_bits`, `normalised_entropy`, `code_share`: Means over the codebooks of the entropy, of the entropy
            divided by the logarithm of the number of codes that occur, and of the number of codes that occur divided by
            the number expected under uniform use. They are NaN without ids.
    """
    sizes = results[0]["codebook_sizes"]
    all_codes: list[int] = []
    for result in results:
        all_codes += result["codes"]
    ids = torch.tensor(all_codes, dtype=torch.long)
    # The ids of codebook k follow those of codebook k - 1.
    use_by_codebook = []
    codes_used = 0
    start = 0
    for size in sizes:
        codebook_ids = ids[(ids >= start) & (ids < start + size)] - start
        use_by_codebook.append(code_usage(codebook_ids, size))
        codes_used += int(use_by_codebook[-1]["codes_used"])
        start += size
    figures = {"tokens": len(ids), "codes_used": codes_used, "codes": sum(sizes), "code_usage": codes_used / sum(sizes)}
    for key in ("code_share", "entropy_bits", "normalised_entropy"):
        figures[key] = float(np.mean([use[key] for use in use_by_codebook]))
    return figures
