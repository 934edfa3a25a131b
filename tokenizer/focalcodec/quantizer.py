"""Binary quantizers: one bit per dimension of the latents, on the unit sphere or off it.

B batch, N token frames, K bits per token. The quantizers have no parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import QuantizerConfig


class LookupFreeQuantizer(nn.Module):
    """Lookup-free quantization (Yu et al., 2023, arXiv 2310.05737, section 3.2).

    Latents <-> codes (+-1 per dimension) <-> tokens (integers; dimension 0 is the highest bit). Latents are not
    normalized.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.bits = config.codebook_dim
        self.scale = 1.0  # magnitude of each entry of a code

    def normalize(self, latents: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K)"""
        return latents

    def latents_to_codes(self, latents: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K); zero counts as negative."""
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
        return bits.to(dtype) * (2 * self.scale) - self.scale


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """Binary spherical quantization: unit latents, codes +-1/sqrt K (Zhao et al., 2024, arXiv 2406.07548)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        # Computed in float32 on the CPU, because it must not depend on the default device and dtype.
        self.scale = torch.tensor(self.bits, dtype=torch.float32, device="cpu").rsqrt().item()

    def normalize(self, latents: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K) of unit length."""
        return F.normalize(latents, dim=-1, eps=1e-12)


QUANTIZERS: dict[str, type[LookupFreeQuantizer]] = {"bsq": BinarySphericalQuantizer, "lfq": LookupFreeQuantizer}
