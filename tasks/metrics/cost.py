"""What a codec costs: parameters, multiply-accumulate operations, time. T samples."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...tokenizer import AudioTokenizer

_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What a codec costs.

    Args:
        parameters: of the whole codec.
        encoder_macs: multiply-accumulate operations per second of audio, of matrix products and convolutions.
        decoder_macs: the same, of decoding.
        encoder_speed: seconds of audio per second of processing: the real-time factor as the paper has it, where more
            is faster. On this machine; the best of three.
        decoder_speed: the same, of decoding.
    """

    parameters: int
    encoder_macs: float
    decoder_macs: float
    encoder_speed: float
    decoder_speed: float


def codec_cost(tokenizer: AudioTokenizer, seconds: float = 10.0) -> Cost:
    """Measured on noise, which costs as much as speech."""
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(round(seconds * tokenizer.sampling_rate), generator=generator)
    ids = tokenizer(wave)["input_ids"][0]
    encode, decode = lambda: tokenizer(wave), lambda: tokenizer.decode(ids)
    return Cost(
        parameters=sum(p.numel() for p in tokenizer.codec.parameters()),
        encoder_macs=macs(encode) / seconds,
        decoder_macs=macs(decode) / seconds,
        encoder_speed=seconds / fastest(encode),
        decoder_speed=seconds / fastest(decode),
    )


def macs(call: Callable[[], object]) -> float:
    """Multiply-accumulate operations of a call: half of the floating-point operations that torch counts."""
    # It counts only what is made of matrix products and convolutions, as fused attention and LSTMs are not.
    fused_off = torch.backends.mkldnn.flags(enabled=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), fused_off, FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


def fastest(call: Callable[[], object]) -> float:
    """Seconds that a call takes at best."""
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
