"""Layers that several codecs share: an activation, attention within a window, SEANet and residual codebooks.

B batch, T samples, N frames, C channels, D feature width, K codebooks, H heads, V codes of a codebook. The names of
modules are those of the official checkpoints.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SEANET_KERNEL = 7  # of the first and the last convolution of SEANet
_SEANET_LSTM_LAYERS = 2
# Suffixes of tensors that official files hold besides the vectors of a codebook: statistics of its training.
CODEBOOK_STATISTICS = ("_codebook.cluster_size", "_codebook.embed_avg", "_codebook.inited")


class SnakeBeta(nn.Module):
    """x + sin(a x)^2 / b, with logarithms of a and b per channel (BigVGAN, Lee et al., 2022, arXiv 2206.04658)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        alpha = self.alpha.exp()[:, None]
        beta = self.beta.exp()[:, None]
        return x + (x * alpha).sin().square() / (beta + 1e-9)


def rotate(x: Tensor, inv_freq: Tensor, start: int = 0) -> Tensor:
    """Apply rotary positions (Su et al., 2021, arXiv 2104.09864), in float32.

    Channel i is rotated together with channel i + F. Channels from 2 F on are passed on.

    Args:
        x: (B, H, N, C).
        inv_freq: (F,) radians per frame.
        start: position of the first frame.

    Returns:
        (B, H, N, C)
    """
    positions = torch.arange(start, start + x.shape[2], device=x.device)
    angle = positions[:, None].float() * inv_freq.float()  # (N, F)
    size = len(inv_freq)
    first = x[..., :size].float()
    second = x[..., size : 2 * size].float()
    cos = angle.cos()
    sin = angle.sin()
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([rotated.to(x.dtype), x[..., 2 * size :]], dim=-1)


def window_attention(q: Tensor, k: Tensor, v: Tensor, left: int, right: int) -> Tensor:
    """Compute softmax(q k^T / sqrt(C)) v, where query i sees the keys from i - left to i + right.

    Queries are processed in chunks, so that memory grows with N and not with its square. No special kernels are needed.

    Args:
        q: (B, H, N, C).
        k: (B, H, P + N, C). The first P <= left frames are the past of a stream.
        v: (B, H, P + N, C).
        left: number of frames before the query that it sees.
        right: number of frames after the query that it sees.

    Returns:
        (B, H, N, C)
    """
    B, H, N, _ = q.shape
    past = k.shape[2] - N
    size = min(N, left + 1 + right)
    chunks = -(-N // size)
    extra = chunks * size - N
    span = left + size + right  # keys that the queries of a chunk see together
    queries = F.pad(q, (0, 0, 0, extra)).flatten(0, 1).unflatten(1, (chunks, size))  # (B H, chunks, size, C)

    def split_keys(x: Tensor) -> Tensor:
        """(B, H, P + N, C) -> (B H, chunks, span, C)"""
        return F.pad(x, (0, 0, left - past, extra + right)).flatten(0, 1).unfold(1, span, size).mT

    query = torch.arange(chunks * size, device=q.device).view(chunks, size, 1)
    key = query[:, :1] + torch.arange(-left, size + right, device=q.device)  # (chunks, 1, span)
    # Queries that only fill up the last chunk may see its padding: with no key at all their softmax would be NaN.
    is_real = (key >= -past) & ((key < N) | (query >= N))
    mask = (key >= query - left) & (key <= query + right) & is_real
    out = F.scaled_dot_product_attention(queries, split_keys(k), split_keys(v), attn_mask=mask)
    return out.flatten(1, 2)[:, :N].unflatten(0, (B, H))


class SEANetEncoder(nn.Module):
    """SEANet (Tagliasacchi et al., 2020, arXiv 2009.02095) as in EnCodec (Defossez et al., 2022, arXiv 2210.13438).

    Convolutions, then an LSTM at the frame rate. Not causal. Turns a waveform (B, 1, T) into features (B, D, N) with
    N = ceil(T / product of strides). Weight normalization is folded when a checkpoint is loaded.

    Args:
        channels: C after the first convolution; each stride doubles them.
        strides: in the order of the encoder.
        dim: D.
        bidirectional: whether the LSTM reads in both directions; its output then has twice the channels.
    """

    def __init__(self, channels: int, strides: Sequence[int], dim: int, bidirectional: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [SEANetConv(1, channels, _SEANET_KERNEL)]
        for stride in strides:
            layers.append(SEANetResidualBlock(channels))
            layers.append(nn.ELU())
            layers.append(SEANetConv(channels, 2 * channels, 2 * stride, stride))
            channels *= 2
        layers.append(SEANetLSTM(channels, bidirectional))
        layers.append(nn.ELU())
        layers.append(SEANetConv(channels * (2 if bidirectional else 1), dim, _SEANET_KERNEL))
        self.model = nn.Sequential(*layers)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> (B, D, N)"""
        return self.model(waveform)


class SEANetDecoder(nn.Module):
    """The mirror image of `SEANetEncoder`: features (B, D, N) to a waveform (B, 1, N * product of strides).

    Args:
        channels: as in the encoder.
        strides: in the order of the encoder.
        dim: D.
    """

    def __init__(self, channels: int, strides: Sequence[int], dim: int) -> None:
        super().__init__()
        channels *= 2 ** len(strides)
        # The decoder's LSTM only reads forwards, even if that of the encoder reads in both directions.
        layers: list[nn.Module] = [SEANetConv(dim, channels, _SEANET_KERNEL), SEANetLSTM(channels)]
        for stride in reversed(strides):
            layers.append(nn.ELU())
            layers.append(SEANetConvTranspose(channels, channels // 2, stride))
            layers.append(SEANetResidualBlock(channels // 2))
            channels //= 2
        layers.append(nn.ELU())
        layers.append(SEANetConv(channels, 1, _SEANET_KERNEL))
        self.model = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, N) -> (B, 1, T)"""
        return self.model(features)


class SEANetConv(nn.Module):
    """Convolution with reflected ends, (B, C, T) -> (B, C', ceil(T / stride))."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({"conv": nn.Conv1d(in_channels, out_channels, kernel_size, stride)})
        self.padding = kernel_size - stride
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', ceil(T / stride))"""
        right = self.padding // 2
        left = self.padding - right
        # The right side also completes the last stride.
        return self.conv["conv"](_reflect(x, left, right + -x.shape[-1] % self.stride))


def _reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Mirror (B, C, T) at its ends without repeating the last sample."""
    # A signal that is too short to be mirrored is first extended with zeros, and shortened by as many afterwards.
    extra = max(0, max(left, right) + 1 - x.shape[-1])
    return F.pad(F.pad(x, (0, extra)), (left, right), mode="reflect")[..., : -extra or None]


class SEANetConvTranspose(nn.Module):
    """Transposed convolution with a kernel of twice the stride, (B, C, T) -> (B, C', T * stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.convtr = nn.ModuleDict({"convtr": nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride)})
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', T * stride)"""
        # One stride too many comes out; if it is odd, the left side loses the odd sample.
        right = self.stride // 2
        return self.convtr["convtr"](x)[..., self.stride - right : -right or None]


class SEANetResidualBlock(nn.Module):
    """A branch of half the channels beside a pointwise shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(nn.ELU(), SEANetConv(channels, half, 3), nn.ELU(), SEANetConv(half, channels, 1))
        self.shortcut = SEANetConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        return self.shortcut(x) + self.block(x)


class SEANetLSTM(nn.Module):
    """An LSTM with a residual connection, which is added to the output of each direction."""

    def __init__(self, channels: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, _SEANET_LSTM_LAYERS, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N), or (B, 2 C, N) in both directions"""
        y = self.lstm(x.mT)[0].mT
        return y + (torch.cat([x, x], dim=1) if self.lstm.bidirectional else x)


class ResidualVQ(nn.Module):
    """Residual vector quantization (Zeghidour et al., 2021, arXiv 2107.03312), for inference.

    Each codebook quantizes what the codebooks before it left over. Features are (B, D, N), codes (B, K, N).
    """

    def __init__(self, num_codebooks: int, codebook_size: int, dim: int) -> None:
        super().__init__()
        layers = [nn.ModuleDict({"_codebook": Codebook(codebook_size, dim)}) for _ in range(num_codebooks)]
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def tables(self) -> list[Tensor]:
        """Return the vectors (V, D) of each codebook."""
        layers: Any = self.vq["layers"]
        return [layer["_codebook"].embed for layer in layers]

    def encode(self, features: Tensor, num_codebooks: int) -> Tensor:
        """(B, D, N) -> (B, num_codebooks, N) int64, of the first codebooks."""
        residual = features.mT
        codes = []
        for table in self.tables()[:num_codebooks]:
            # The squared distance of every frame to every code.
            distance = residual.square().sum(-1, keepdim=True) - 2 * residual @ table.T + table.square().sum(-1)
            nearest = distance.argmin(-1)
            residual = residual - F.embedding(nearest, table)
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, N), of all codebooks or of the first of them, -> (B, D, N)"""
        features: Any = 0
        # Not strict: there may be fewer codes than codebooks.
        for codebook_codes, table in zip(codes.unbind(1), self.tables(), strict=False):
            features = features + F.embedding(codebook_codes, table)
        return features.mT


class Codebook(nn.Module):
    """The vectors (V, D) of a codebook."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(size, dim))
