"""Binary spherical quantisation (Zhao et al., 2024, arXiv 2406.07548): one bit per dimension of a unit vector.

B batch, N frames, K here the bits per token. Nothing is learned and nothing is stored: every table is arithmetic.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import QuantizerConfig


class BinarySphericalQuantizer(nn.Module):
    """Unit latents <-> codes (+-1/sqrt K per dimension) <-> tokens (integers; dimension 0 is the highest bit)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.bits = config.codebook_dim

    def normalize(self, latents: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K) of unit length."""
        return F.normalize(latents, dim=-1, eps=1e-12)

    def latents_to_codes(self, latents: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K); exactly zero counts as negative."""
        return self._signs(latents > 0, latents.dtype)

    def codes_to_tokens(self, codes: Tensor) -> Tensor:
        """(B, N, K), latents or codes -> (B, N) int64."""
        return ((codes > 0).long() << self._shifts(codes.device)).sum(dim=-1)

    def tokens_to_codes(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, N) int64 -> (B, N, K)"""
        return self._signs((tokens[..., None] >> self._shifts(tokens.device) & 1).bool(), dtype)

    @property
    def codebook(self) -> Tensor:
        """All codes in token order: (2^K, K)."""
        return self.tokens_to_codes(torch.arange(2**self.bits))

    def _shifts(self, device: torch.device) -> Tensor:
        return torch.arange(self.bits - 1, -1, -1, device=device)

    def _signs(self, bits: Tensor, dtype: torch.dtype) -> Tensor:
        scale = torch.tensor(self.bits, dtype=torch.float32).rsqrt().item()
        return bits.to(dtype) * (2 * scale) - scale
