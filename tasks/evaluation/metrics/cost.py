"""What a codec costs: parameters and multiply-accumulate operations. T samples."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ....tokenizer import AudioTokenizer


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
