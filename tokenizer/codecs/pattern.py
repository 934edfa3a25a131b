"""Put several codebooks into one sequence, and take them out again. K codebooks, N frames."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodePattern:
    """A reversible layout of the codes (..., K, N) of one or more items.

    `"flatten"`: ids (..., N * K), all codes of frame 0, then all of frame 1, and so on. An offset is added to each
    codebook, the size of all codebooks before it, so that one vocabulary holds them all. K times as long.

    `"delay"`: ids (..., K, N + K - 1) for a model with K heads (as MusicGen, Copet et al., 2023, arXiv 2306.05284).
    Codebook k starts k steps late, and `pad_id` fills the corners.

    Args:
        codebook_sizes: number of codes of each codebook.
        kind: `"flatten"` or `"delay"`.

    Raises:
        ValueError: A size that is not positive, or an unknown kind.
    """

    codebook_sizes: tuple[int, ...]
    kind: Literal["flatten", "delay"] = "flatten"

    def __post_init__(self) -> None:
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes needs one positive size per codebook, found {self.codebook_sizes}")
        if self.kind not in ("flatten", "delay"):
            raise ValueError(f"kind must be 'flatten' or 'delay', found {self.kind!r}")

    @property
    def vocab_size(self) -> int:
        """Number of different ids, `pad_id` included if there is one."""
        return sum(self.codebook_sizes) if self.kind == "flatten" else self.pad_id + 1

    @property
    def pad_id(self) -> int:
        """Id of the corners of `"delay"`: one above every code."""
        return max(self.codebook_sizes)

    def apply(self, codes: Tensor) -> Tensor:
        """Convert codes (..., K, N) to ids; see the class for their shape.

        Raises:
            ValueError: Another number of codebooks, or a code outside its codebook.
        """
        if codes.ndim < 2 or codes.shape[-2] != len(self.codebook_sizes):
            raise ValueError(f"codes must be (..., {len(self.codebook_sizes)}, N), found {tuple(codes.shape)}")
        self._check(codes)
        if self.kind == "flatten":
            return (codes + self._offsets(codes)).transpose(-1, -2).flatten(-2)
        K, N = codes.shape[-2:]
        ids = codes.new_full((*codes.shape[:-1], N + K - 1), self.pad_id)
        for k in range(K):
            ids[..., k, k : k + N] = codes[..., k, :]
        return ids

    def revert(self, ids: Tensor) -> Tensor:
        """Convert ids to codes (..., K, N). An incomplete last frame, as in a stream that was cut, is dropped.

        Raises:
            ValueError: An id that does not belong where it is.
        """
        K = len(self.codebook_sizes)
        if self.kind == "flatten":
            N = ids.shape[-1] // K
            codes = ids[..., : N * K].unflatten(-1, (N, K)).transpose(-1, -2)
            codes = codes - self._offsets(codes)
        else:
            if ids.ndim < 2 or ids.shape[-2] != K:
                raise ValueError(f"delayed ids must be (..., {K}, N + {K - 1}), found {tuple(ids.shape)}")
            N = max(0, ids.shape[-1] - K + 1)
            codes = torch.stack([ids[..., k, k : k + N] for k in range(K)], dim=-2)
        self._check(codes)
        return codes

    def _offsets(self, like: Tensor) -> Tensor:
        """Return the first id of each codebook, (K, 1)."""
        sizes = torch.tensor(self.codebook_sizes, device=like.device)
        return (sizes.cumsum(0) - sizes)[:, None]

    def _check(self, codes: Tensor) -> None:
        sizes = torch.tensor(self.codebook_sizes, device=codes.device)[:, None]
        wrong = ((codes < 0) | (codes >= sizes)).nonzero()
        if len(wrong):
            index = tuple(wrong[0].tolist())
            k, n = index[-2:]
            raise ValueError(
                f"frame {n} has the code {int(codes[index])} for codebook {k}, which holds 0 ... "
                f"{self.codebook_sizes[k] - 1}: the stream does not begin with a whole frame, or holds other ids than "
                "codes"
            )
