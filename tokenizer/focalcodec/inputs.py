"""Checks and grouping of the input to a codec. B batch, T samples, N token frames."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .layers import length_mask


def check_waveforms(
    input_values: Tensor, padding_mask: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Check a batch of waveforms and cut off the padding that all items share.

    Args:
        input_values: (B, T) or (B, 1, T) floats.
        padding_mask: (B, T) bool, True where a sample is real.
        dtype: type of the model's weights.

    Returns:
        The waveforms (B, T), zero in padding, and their lengths (B,), or None if no item is padded.

    Raises:
        ValueError: The input is empty, non-finite or wrongly shaped.
    """
    if input_values.ndim == 3 and input_values.shape[1] == 1:
        input_values = input_values[:, 0]
    if input_values.ndim != 2 or 0 in input_values.shape:
        raise ValueError(
            f"input_values must be (B, T) or (B, 1, T) with at least one sample, found {tuple(input_values.shape)}; "
            "add the batch axis, and average channels before encoding"
        )
    if not input_values.is_floating_point():
        raise ValueError(
            f"input_values must be floats in [-1, 1], found {input_values.dtype}: divide integer PCM by its full scale"
        )
    lengths = None
    if padding_mask is not None:
        lengths = _mask_to_lengths(padding_mask, input_values.shape, "padding_mask", "input_values")
        input_values, lengths = _cut_padding(input_values, lengths)
    # Checked only now, because padding may hold anything until it is zeroed.
    if not torch.isfinite(input_values).all():
        raise ValueError("input_values holds NaN or infinite samples: repair or drop them before encoding")
    return input_values.to(dtype), lengths


def check_tokens(audio_codes: Tensor, mask: Tensor | None, codebook_size: int) -> tuple[Tensor, Tensor | None]:
    """Check a batch of tokens and cut off the padding that all items share.

    Args:
        audio_codes: (B, N) or (B, 1, N) integers.
        mask: (B, N) bool, True where a token is real.
        codebook_size: number of different tokens.

    Returns:
        The tokens (B, N) int64, zero in padding, and their lengths (B,), or None if no item is padded.

    Raises:
        ValueError: A token is outside the codebook, or the input is wrongly shaped.
    """
    tokens = audio_codes
    if audio_codes.ndim == 3 and audio_codes.shape[1] == 1:
        tokens = audio_codes[:, 0]
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ValueError(
            f"audio_codes must be (B, 1, N) or (B, N) with at least one token, found {tuple(audio_codes.shape)}"
        )
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"audio_codes must be integers, found {tokens.dtype}")
    lengths = None
    if mask is not None:
        lengths = _mask_to_lengths(mask, tokens.shape, "audio_codes_mask", "audio_codes")
        tokens, lengths = _cut_padding(tokens, lengths)
    lowest = int(tokens.min())
    highest = int(tokens.max())
    if lowest < 0 or highest >= codebook_size:
        raise ValueError(
            f"audio_codes must lie in 0 ... {codebook_size - 1}, found {lowest if lowest < 0 else highest}: "
            "subtract the vocabulary's audio offset, and remove control tokens, before decoding"
        )
    return tokens.long(), lengths


def group_items(sizes: Sequence[float], limit: float) -> list[list[int]]:
    """Group the items of a batch by size, longest first, into groups of at most `limit` with padding.

    An item that is longer than half the limit is alone in its group.

    Args:
        sizes: size of each item, in samples, tokens or seconds.
        limit: number of items times the longest of them.

    Returns:
        The indices of the items of each group. The first item of a group is its longest.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        # The others are padded to the size of the first.
        if groups and (len(groups[-1]) + 1) * sizes[groups[-1][0]] <= limit:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _mask_to_lengths(mask: Tensor, shape: torch.Size, name: str, input_name: str) -> Tensor:
    """Convert a mask (B, T) to lengths (B,), and check that no item is empty and that all padding is at the end."""
    if mask.shape != shape:
        raise ValueError(f"{name} must have the shape of {input_name}, {tuple(shape)}, found {tuple(mask.shape)}")
    mask = mask.bool()
    lengths = mask.sum(dim=1)
    if int(lengths.min()) == 0:
        raise ValueError(
            f"{name} marks item {int(lengths.argmin())} as empty: every item needs at least one real position"
        )
    if not torch.equal(mask, length_mask(lengths, mask.shape[1])):
        raise ValueError(f"{name} must be True, then False, in every item: pad at the end (padding_side='right')")
    return lengths


def _cut_padding(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cut (B, T) to its longest item and zero the remaining padding. Without any, the lengths become None."""
    longest = int(lengths.max())
    x = x[:, :longest].masked_fill(~length_mask(lengths, longest), 0)
    if bool((lengths == longest).all()):
        return x, None
    return x, lengths
