"""Attention within a sliding window, and rotary positions. B batch, H heads, N frames, C channels of a head."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x: Tensor, inv_freq: Tensor, start: int = 0) -> Tensor:
    """Rotary positions (Su et al., 2021, arXiv 2104.09864) on the first 2 F channels of x (B, H, N, C), in float32.

    Channel i turns with channel i + F, by inv_freq[i] (F,) radians per frame; the other channels pass. The first frame
    has the position `start`.
    """
    positions = torch.arange(start, start + x.shape[2], device=x.device)
    angle = positions[:, None].float() * inv_freq.float()  # (N, F)
    size = len(inv_freq)
    first, second, rest = x[..., :size].float(), x[..., size : 2 * size].float(), x[..., 2 * size :]
    turned = torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)
    return torch.cat([turned.to(x.dtype), rest], dim=-1)


def window_attention(q: Tensor, k: Tensor, v: Tensor, left: int, right: int) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over the keys i - left ... i + right of query i; (B, H, N, C) -> (B, H, N, C).

    k and v (B, H, P + N, C) may begin with P <= left frames of the past. Works on chunks of queries, so that memory
    grows with N and not with its square; any device, no special kernels.
    """
    B, H, N, _ = q.shape
    past = k.shape[2] - N
    size = min(N, left + 1 + right)
    chunks = -(-N // size)
    extra = chunks * size - N
    span = left + size + right  # keys that the queries of a chunk see together
    queries = F.pad(q, (0, 0, 0, extra)).flatten(0, 1).unflatten(1, (chunks, size))  # (B H, chunks, size, C)
    keys, values = (
        F.pad(x, (0, 0, left - past, extra + right)).flatten(0, 1).unfold(1, span, size).mT for x in (k, v)
    )  # (B H, chunks, span, C)
    query = torch.arange(chunks * size, device=q.device).view(chunks, size, 1)
    key = query[:, :1] + torch.arange(-left, size + right, device=q.device)  # (chunks, 1, span)
    # Queries that only fill the last chunk may see its padding: with no key at all their softmax would not be a number.
    real = (key >= -past) & ((key < N) | (query >= N))
    mask = (key >= query - left) & (key <= query + right) & real
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.flatten(1, 2)[:, :N].unflatten(0, (B, H))
