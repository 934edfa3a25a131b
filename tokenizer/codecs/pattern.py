"""Several codebooks in one sequence, and back. K codebooks, N frames."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodePattern:
    """A reversible layout of the codes (..., K, N) of one or more items.

    `"flatten"`: ids (..., N * K), all codes of frame 0, then all of frame 1, ...; the codes of codebook k are moved up
    by the sizes of those before it, so that one plain vocabulary holds them all. Exact, and K times as long.

    `"delay"`: ids (..., K, N + K - 1), codebook k starts k steps late and `pad_id` fills the corners, for a model with
    K heads (as MusicGen).

    Args:
        codebook_sizes: number of codes of each codebook.
        kind: `"flatten"` or `"delay"`.
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
        """Number of different ids, `pad_id` included where there is one."""
        return sum(self.codebook_sizes) if self.kind == "flatten" else self.pad_id + 1

    @property
    def pad_id(self) -> int:
        """Id of the corners of `"delay"`: one above every code."""
        return max(self.codebook_sizes)

    def apply(self, codes: Tensor) -> Tensor:
        """Codes (..., K, N) -> ids; see the class for their shape.

        Raises:
            ValueError: another number of codebooks, or a code outside its codebook.
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
        """Ids -> codes (..., K, N); the incomplete last frame of a stream that was cut is dropped.

        Raises:
            ValueError: an id that cannot stand where it stands.
        """
        K = len(self.codebook_sizes)
        if self.kind == "flatten":
            frames = ids.shape[-1] // K
            codes = ids[..., : frames * K].unflatten(-1, (frames, K)).transpose(-1, -2)
            codes = codes - self._offsets(codes)
        else:
            if ids.ndim < 2 or ids.shape[-2] != K:
                raise ValueError(f"delayed ids must be (..., {K}, N + {K - 1}), found {tuple(ids.shape)}")
            frames = max(0, ids.shape[-1] - K + 1)
            codes = torch.stack([ids[..., k, k : k + frames] for k in range(K)], dim=-2)
        self._check(codes)
        return codes

    def _offsets(self, like: Tensor) -> Tensor:
        """(K, 1): the first id of each codebook."""
        sizes = torch.tensor(self.codebook_sizes, device=like.device)
        return (sizes.cumsum(0) - sizes)[:, None]

    def _check(self, codes: Tensor) -> None:
        sizes = torch.tensor(self.codebook_sizes, device=codes.device)[:, None]
        wrong = ((codes < 0) | (codes >= sizes)).nonzero()
        if len(wrong):
            at = tuple(wrong[0].tolist())
            k, n = at[-2:]
            raise ValueError(
                f"frame {n} has the code {int(codes[at])} for codebook {k}, which holds 0 ... "
                f"{self.codebook_sizes[k] - 1}: "
                "the stream does not begin with a whole frame, or holds other ids than codes"
            )
