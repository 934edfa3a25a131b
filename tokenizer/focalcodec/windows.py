"""Audio too long for one pass: in windows, with bounded memory. K codebooks, N tokens, T samples.

A causal codec is streamed, which gives what one pass would give. For any other codec windows are an approximation: its
tokens depend on the whole signal (attention, global means), and a window knows only its context. Windows are cut on the
token grid, the context's tokens are thrown away, and decoded windows are cross-faded.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..codecs.loading import Codec

MAX_WHOLE_S = 120.0  # up to this duration audio goes through a codec in one pass
_WINDOW_S = 60.0  # at least; the last window is up to twice as long
_CONTEXT_S = 10.0  # on both sides of a window
_FADE_S = 0.02  # half of a cross-fade


def encode_long(codec: "Codec", waveform: Tensor, window_s: float = _WINDOW_S, context_s: float = _CONTEXT_S) -> Tensor:
    """Waveform (1, T) of any length -> codes (1, K, N), as many as one pass would give.

    The waveform may lie in the CPU's memory; one window at a time goes to the codec's device.
    """
    c = codec.config
    chunk, context = _grid(codec, window_s, context_s)
    if c.causal:
        stream = codec.stream()
        pieces = _pieces(waveform.shape[1], chunk * c.samples_per_token)
        return torch.cat([stream.encode(waveform[:, a:b].to(codec.device)) for a, b in pieces], dim=2)
    codes = []
    total = int(codec.num_tokens(waveform.shape[1]))
    for start, end in _pieces(total, chunk):
        left = max(0, start - context)
        # Without its right context the last window ends where the signal ends.
        right = waveform.shape[1] if end == total else (end + context) * c.samples_per_token
        window = waveform[:, left * c.samples_per_token : right].to(codec.device)
        codes.append(codec.encode(window).audio_codes[:, :, start - left : end - left])
    return torch.cat(codes, dim=2)


def decode_long(
    codec: "Codec",
    codes: Tensor,
    num_samples: int | None = None,
    window_s: float = _WINDOW_S,
    context_s: float = _CONTEXT_S,
) -> Tensor:
    """Codes (1, K, N) of any length -> waveform (1, T) float32 in the CPU's memory.

    T is `num_samples` at the output rate (cut, or the last sample repeated), or N tokens' worth.
    """
    c = codec.config
    per_token = c.samples_per_token * c.output_sampling_rate // c.sampling_rate
    total = codes.shape[2]
    chunk, context = _grid(codec, window_s, context_s)
    fade = 0 if c.causal else min(round(_FADE_S * c.output_sampling_rate), context * per_token, chunk * per_token // 2)
    stream = codec.stream() if c.causal else None
    audio = torch.zeros(total * per_token)
    for start, end in _pieces(total, chunk):
        if stream is not None:
            left, wave = start, stream.decode(codes[:, :, start:end].to(codec.device))
        else:
            left = max(0, start - context)
            wave = codec.decode(codes[:, :, left : end + context].to(codec.device)).audio_values
        # The window speaks from `fade` before its first to `fade` after its last sample, rising and falling linearly.
        begin, finish = max(0, start * per_token - fade), min(len(audio), end * per_token + fade)
        piece = wave.flatten().float().cpu()[begin - left * per_token : finish - left * per_token]
        weight = torch.ones(len(piece))
        ramp = (torch.arange(2 * fade) + 0.5) / max(1, 2 * fade)
        if start > 0:
            weight[: 2 * fade] = ramp
        if end < total:
            weight[len(weight) - 2 * fade :] *= ramp.flip(0)
        audio[begin:finish] += piece * weight
    wanted = len(audio) if num_samples is None else num_samples * c.output_sampling_rate // c.sampling_rate
    return audio[torch.arange(wanted).clamp(max=len(audio) - 1)][None]


def _grid(codec: "Codec", window_s: float, context_s: float) -> tuple[int, int]:
    """-> window (for a causal codec whole chunks) and context, in tokens, at least one each"""
    c = codec.config
    per_chunk = c.chunk_length // c.samples_per_token if c.causal else 1
    window = max(1, round(window_s * c.frame_rate / per_chunk)) * per_chunk
    return window, max(1, round(context_s * c.frame_rate))


def _pieces(total: int, size: int) -> list[tuple[int, int]]:
    """Cut `total` into pieces of `size`; the last takes the remainder, so that none is tiny."""
    starts = [i * size for i in range(max(1, total // size))]
    return list(zip(starts, [*starts[1:], total], strict=True))
