"""The first layers of WavLM (Chen et al., 2021, arXiv 2110.13900) as FocalCodec's encoder, full-context or causal.

B batch, T frames, D width, H heads; samples are at 16 kHz. The waveform is not normalized.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .layers import FeedForward, StreamState, convolve, full_precision, length_mask, zero_padding
from .parts import WavLMConfig

# Frames of the whole batch that pass through the convolutions together. The first convolution outputs 64 x 512 values
# per frame, which is 400 MB per minute. A CPU is faster if they stay in its cache; a GPU needs few, large calls.
_PIECE_CPU = 128
_PIECE_GPU = 4096
# Entries of the attention bias in memory at a time. Queries are processed in blocks to avoid a tensor of B x H x T x T.
_BIAS_ENTRIES = 1 << 23


class WavLMEncoder(nn.Module):
    """Waveform (B, T_samples) -> features (B, T, D) at 50 Hz."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = ConvFeatureExtractor(config)
        self.norm = nn.LayerNorm(config.hidden_dims[-1])
        self.feature_proj = nn.Linear(config.hidden_dims[-1], config.dim)
        self.encoder = TransformerEncoder(config)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Compute the number of frames of signals of (B,) samples."""
        return self.feature_extractor.num_frames(lengths)

    @full_precision
    def forward(self, waveform: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """Compute the features.

        Args:
            waveform: (B, T_samples).
            lengths: (B,) in samples, if the batch is padded.
            state: state of a stream; only for a causal encoder.

        Returns:
            (B, T, D); frames of padding are zero.
        """
        x = self.feature_proj(self.norm(self.feature_extractor(waveform, lengths, state)))
        mask = None if lengths is None else length_mask(self.num_frames(lengths), x.shape[1])
        x = self.encoder(zero_padding(x, mask), mask, state)
        if state is not None:
            state.position = state.position + x.shape[1]
        return zero_padding(x, mask)

    def hidden_states(self, waveform: Tensor) -> Iterator[Tensor]:
        """Yield the input of the first transformer layer, then the output of each, (B, T, D).

        The waveforms (B, T_samples) have no padding.
        """
        x = self.feature_proj(self.norm(self.feature_extractor(waveform, None, None)))
        return self.encoder.hidden_states(x, None, None)


class ConvFeatureExtractor(nn.Module):
    """Strided convolutions, each followed by a LayerNorm over channels and GELU."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        dims = (1, *config.hidden_dims)
        self.layers: Iterable[ConvBlock] = nn.ModuleList(  # type: ignore[assignment]
            ConvBlock(dims[i], dims[i + 1], config.kernel_sizes[i], config.strides[i])
            for i in range(len(config.hidden_dims))
        )
        self.causal = config.causal
        self.hop_length = config.hop_length

    @property
    def receptive_field(self) -> int:
        """Samples that one frame depends on."""
        size = 1
        hop = 1
        for block in self.layers:
            size += (block.kernel_size - 1) * hop
            hop *= block.stride
        return size

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Compute the number of frames of signals of (B,) samples."""
        for block in self.layers:
            lengths = block.num_frames(lengths, self.causal)
        return lengths

    def forward(self, waveform: Tensor, lengths: Tensor | None, state: StreamState | None) -> Tensor:
        """(B, T_samples) -> (B, T, D), computed in pieces to save memory, with the same result as in one piece."""
        # A graph for another program has no loop over pieces.
        if torch.compiler.is_compiling():
            return self._run_blocks(waveform, lengths, state)
        if waveform.device.type != "cpu" or state is not None or len(waveform) == 1:
            return self._run_pieces(waveform, lengths, state)
        # A CPU gains nothing from more than one item at a time, but a single item needs no masks.
        sizes = [waveform.shape[1]] * len(waveform) if lengths is None else lengths.tolist()
        outputs = []
        for item, size in enumerate(sizes):
            outputs.append(self._run_pieces(waveform[item : item + 1, :size], None, None)[0])
        return pad_sequence(outputs, batch_first=True)

    def _run_pieces(self, waveform: Tensor, lengths: Tensor | None, state: StreamState | None) -> Tensor:
        """(B, T_samples) -> (B, T, D)"""
        frames_at_a_time = _PIECE_CPU if waveform.device.type == "cpu" else _PIECE_GPU
        step = max(8, frames_at_a_time // len(waveform)) * self.hop_length
        outputs = []
        if state is not None:
            for piece in waveform.split(step, dim=1):
                outputs.append(self._run_blocks(piece, None, state))
            return torch.cat(outputs, dim=1)
        # Neighboring pieces overlap, so that each frame sees its whole receptive field.
        size = step - self.hop_length + self.receptive_field
        frames = int(self.num_frames(torch.tensor([waveform.shape[1]])))
        for start in range(0, frames * self.hop_length, step):
            remaining = None if lengths is None else lengths - start
            outputs.append(self._run_blocks(waveform[:, start : start + size], remaining, None))
        return torch.cat(outputs, dim=1)

    def _run_blocks(self, waveform: Tensor, lengths: Tensor | None, state: StreamState | None) -> Tensor:
        x = waveform[..., None]
        for block in self.layers:
            if lengths is not None:
                x = zero_padding(x, length_mask(lengths, x.shape[1]))
                lengths = block.num_frames(lengths, causal=False)
            x = block(x, state)
        return x


class ConvBlock(nn.Module):
    """One strided convolution: (B, T, in_dim) -> (B, T', out_dim)."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.conv = nn.Conv1d(in_dim, out_dim, kernel_size, stride, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def num_frames(self, lengths: Tensor, causal: bool) -> Tensor:
        """Compute T' for (B,) lengths T."""
        if causal:
            return (lengths - 1) // self.stride + 1
        return (lengths.clamp(min=self.kernel_size) - self.kernel_size) // self.stride + 1

    def forward(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(B, T, in_dim) -> (B, T', out_dim)"""
        if state is not None:
            x = state.extend(self, x, self.kernel_size - 1)
        else:  # even a single sample must yield a frame
            x = F.pad(x, (0, 0, 0, torch.sym_max(self.kernel_size - x.shape[1], 0)))
        return F.gelu(self.norm(convolve(self.conv, x)))


class TransformerEncoder(nn.Module):
    """Positional convolution and pre-norm layers that share one relative position bias; no final norm."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.config = config
        self.positional_embedding = PositionalConvolution(config)
        self.relative_embedding = nn.Embedding(config.num_buckets, config.num_heads)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), mask (B, T) True where a frame is real -> (B, T, D)"""
        return deque(self.hidden_states(x, mask, state), maxlen=1).pop()

    def hidden_states(self, x: Tensor, mask: Tensor | None, state: StreamState | None) -> Iterator[Tensor]:
        """Yield the input of the first layer, then the output of each, (B, T, D)."""
        x = x + self.positional_embedding(x, state)
        yield x
        # All layers share one bias, long enough for the distances to cached keys.
        past = 0 if state is None else self.config.window_size
        bias = self.relative_bias(past + x.shape[1])
        for layer in self.layers:
            x = layer(x, bias, mask, state)
            yield x

    def relative_bias(self, reach: int) -> Tensor:
        """Compute the bias (H, 2 reach - 1) of the distances key - query = 1 - reach ... reach - 1.

        A Toeplitz matrix has no other values. Distances have buckets of their own up to a quarter of the buckets, and
        logarithmic ones above (T5, arXiv 1910.10683, with natural logarithms as in WavLM). Buckets are computed in
        float32 for any dtype of the model.
        """
        distance = torch.arange(1 - reach, reach, device=self.relative_embedding.weight.device)
        half = self.config.num_buckets // 2
        exact = half // 2
        far = torch.log(distance.abs().clamp(min=1).float() / exact)
        far = far / math.log(self.config.max_distance / exact) * (half - exact)
        bucket = torch.where(distance.abs() < exact, distance.abs(), (exact + far.long()).clamp(max=half - 1))
        return self.relative_embedding(bucket + half * (distance > 0)).T


class PositionalConvolution(nn.Module):
    """A wide grouped convolution whose output is added to its input, as position information."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(config.dim, config.dim, config.conv_pos, groups=config.conv_pos_groups)

    def forward(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(B, T, D) -> (B, T, D); padded frames of x are zero."""
        kernel = self.conv.kernel_size[0]
        if state is not None:
            x = state.extend(self, x, kernel - 1)
        else:
            x = F.pad(x, (0, 0, kernel // 2, kernel - 1 - kernel // 2))
        return F.gelu(self.conv(x.mT).mT)


class EncoderLayer(nn.Module):
    """Gated attention and a feed-forward layer, each with a norm before it and a residual."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = GatedAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim)

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), bias (H, 2 reach - 1), mask (B, T) True where a frame is real -> (B, T, D)"""
        x = x + self.attention(self.attention_norm(x), bias, mask, state)
        return x + self.feed_forward(self.feed_forward_norm(x))


class GatedAttention(nn.Module):
    """Self-attention whose relative position bias is scaled per query by a gate (arXiv 2110.13900, section 3.1)."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.config = config
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.num_heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(config.dim // config.num_heads, 8)
        self.qkv_proj = nn.Linear(config.dim, 3 * config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor | None, state: StreamState | None) -> Tensor:
        """x (B, T, D), bias (H, 2 reach - 1), mask (B, T) True where a frame is real -> (B, T, D)"""
        B, T, D = x.shape
        heads = self.config.num_heads
        qkv = self.qkv_proj(x).view(B, T, 3, heads, D // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        gate = self._gate(x)
        begin, end = self._visible_columns(B, T, mask, state)
        if state is not None:
            key, value = self._cache(key, value, state)
        past = key.shape[2] - T
        attended = torch.empty_like(query)
        for rows, first, last in self._blocks(begin, end, past):
            scores = gate[:, :, rows] * _toeplitz(bias, rows, first, last)
            # Without padding and without a window, every frame sees all others.
            if mask is not None or state is not None:
                columns = torch.arange(first, last, device=x.device)
                visible = (columns >= begin[:, rows, None]) & (columns < end[:, rows, None])  # (B, rows, columns)
                scores = scores.masked_fill(~visible[:, None], -torch.inf)
            keys = slice(first + past, last + past)
            attended[:, :, rows] = F.scaled_dot_product_attention(
                query[:, :, rows],
                key[:, :, keys],
                value[:, :, keys],
                attn_mask=scores,
            )
        return self.out_proj(attended.transpose(1, 2).reshape(B, T, D))

    def _blocks(self, begin: Tensor, end: Tensor, past: int) -> Iterator[tuple[slice, int, int]]:
        """Yield blocks of new frames with the range of columns, from first to last, that they may attend to.

        Columns are counted from the first new frame, so those of cached keys are negative.
        """
        B, T = begin.shape
        # A graph for another program has no loop over blocks.
        if torch.compiler.is_compiling():
            yield slice(0, T), -past, T
            return
        reach = self.config.window_size + T if self.config.causal else T
        block = max(1, _BIAS_ENTRIES // (B * self.config.num_heads * min(past + T, reach)))
        for i in range(0, T, block):
            rows = slice(i, min(i + block, T))
            yield rows, max(int(begin[:, rows].min()), -past), int(end[:, rows].max())

    def _gate(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, 1)"""
        B, T, D = x.shape
        x = x.view(B, T, self.config.num_heads, D // self.config.num_heads).transpose(1, 2)
        a, b = self.gru_rel_pos_linear(x).view(*x.shape[:3], 2, 4).sum(-1).sigmoid().unbind(-1)
        return (a[..., None] * (b[..., None] * self.gru_rel_pos_const - 1) + 2).to(x.dtype)

    def _visible_columns(self, B: int, T: int, mask: Tensor | None, state: StreamState | None) -> tuple[Tensor, Tensor]:
        """Compute the columns [begin, end), each (B, T), that each new frame may attend to.

        Columns are counted from the first new frame.
        """
        device = self.gru_rel_pos_const.device
        new = torch.full((B, 1), T, device=device) if mask is None else mask.sum(1, keepdim=True)
        if state is None:
            return torch.zeros(B, T, dtype=torch.long, device=device), new.expand(-1, T)
        chunk = self.config.chunk_size
        window = self.config.window_size
        # The cache holds the newest frames of each stream; it is not full at the start of a stream.
        cached = state.position.clamp(max=window - chunk)[:, None]  # (B, 1)
        # A frame sees all of its own chunk, but no later chunk. The position is at the start of a chunk.
        index = torch.arange(T, device=device)
        end = torch.minimum((cached + chunk + index) // chunk * chunk, cached + new)
        return (end - window).clamp(min=0) - cached, end - cached

    def _cache(self, key: Tensor, value: Tensor, state: StreamState) -> tuple[Tensor, Tensor]:
        """Prepend the cached keys and values, and cache the newest `window_size - chunk_size` for the next call."""
        if self in state.key_values:
            key = torch.cat([state.key_values[self][0], key], dim=2)
            value = torch.cat([state.key_values[self][1], value], dim=2)
        keep = self.config.window_size - self.config.chunk_size
        state.key_values[self] = (key[:, :, -keep:].clone(), value[:, :, -keep:].clone())
        return key, value


def _toeplitz(bias: Tensor, rows: slice, first: int, last: int) -> Tensor:
    """Build rows of the Toeplitz matrix M[i, j] = bias(j - i), columns first <= j < last: (H, rows, last - first)."""
    zero = bias.shape[1] // 2  # index of distance 0
    if torch.compiler.is_compiling():
        columns = torch.arange(first, last, device=bias.device)
        return bias[:, zero + columns - torch.arange(rows.start, rows.stop, device=bias.device)[:, None]]
    windows = bias.unfold(1, last - first, 1)  # a view: window w holds the distances from w - zero on
    return windows[:, zero + first - torch.arange(rows.start, rows.stop, device=bias.device)]
