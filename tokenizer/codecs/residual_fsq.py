"""Residual finite scalar quantisation (Mentzer et al., 2023; Parker et al., 2024). B batch, K codebooks, N frames.

D is the number of dimensions. Nothing here is learned: a checkpoint holds none of it, and the stages of a trained model
can be chosen afterwards.
"""

import torch
from torch import Tensor

# (levels per dimension, scale) of each stage, by the names of Parker et al. (arXiv 2411.19842, "post-hoc" bottleneck).
PRESETS: dict[str, tuple[tuple[int, float], ...]] = {
    "1x46656_400bps": ((6, 1.0),),
    "2x15625_700bps": ((5, 1.0), (5, 0.25)),
    "4x729_1000bps": ((3, 1.0), (3, 0.5), (3, 0.25), (3, 0.125)),
}


class ResidualFSQ:
    """Each stage rounds what the stages before it left over to a grid of L^D points in [-scale, scale].

    Args:
        dim: D.
        stages: (L, scale) of each.

    Raises:
        ValueError: no stage, fewer than two levels, or codebooks of different sizes.
    """

    def __init__(self, dim: int, stages: tuple[tuple[int, float], ...]) -> None:
        sizes = {levels for levels, _ in stages}
        if len(sizes) != 1 or min(sizes) < 2:
            raise ValueError(
                "the stages of a residual FSQ need the same number of levels, at least 2: all codebooks of a codec "
                f"have one size here; found {list(stages)}"
            )
        self.dim = dim
        self.levels = stages[0][0]
        self.scales = [scale for _, scale in stages]

    @property
    def codebook_size(self) -> int:
        """Codes of one stage, L^D."""
        return self.levels**self.dim

    def to_codes(self, latents: Tensor) -> Tensor:
        """(B, D, N) latents, unbounded -> (B, K, N) int64; tanh and rounding in float64.

        The first dimension is the least significant digit. Rounding is to the nearest even level in ties. No stage has
        to clip: what a stage leaves over is at most the scale of the next.
        """
        rest = latents.double().tanh()
        codes = []
        for scale in self.scales:
            step = self._step(scale)
            level = ((rest + scale) / step).round()
            rest = rest - (level * step - scale)
            codes.append((level.long() * self._digits(latents)).sum(1))
        return torch.stack(codes, dim=1)

    def to_vectors(self, codes: Tensor) -> Tensor:
        """(B, K, N) codes of the first K stages -> the sum of their grid points (B, D, N), float32."""
        points = torch.zeros(codes.shape[0], self.dim, codes.shape[2], dtype=torch.float64, device=codes.device)
        for code, scale in zip(codes.unbind(1), self.scales, strict=False):
            points += (code[:, None] // self._digits(codes)) % self.levels * self._step(scale) - scale
        return points.float()

    def tables(self, device: torch.device | str = "cpu") -> list[Tensor]:
        """The (L^D, D) points of each stage, float32."""
        codes = torch.arange(self.codebook_size, device=device)[:, None]
        level = codes // self._digits(codes)[:, 0] % self.levels
        return [(level * self._step(scale) - scale).float() for scale in self.scales]

    def _step(self, scale: float) -> float:
        """Distance of two levels; rounded to float32, as the reference holds it, so that ties are the same."""
        return float(torch.tensor(2 * scale / (self.levels - 1), dtype=torch.float32))

    def _digits(self, like: Tensor) -> Tensor:
        """(D, 1): what a level of each dimension counts in a code."""
        return self.levels ** torch.arange(self.dim, device=like.device)[:, None]
