"""Residual vector quantisation (Zeghidour et al., 2021, arXiv 2107.03312) by plain distances, for inference.

B batch, K codebooks, N frames, V codes of a codebook, D width. Names of modules are those of the official checkpoints.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How the names of what official files hold of the training of codebooks end.
STATISTICS = ("_codebook.cluster_size", "_codebook.embed_avg", "_codebook.inited")


class ResidualVQ(nn.Module):
    """Features (B, D, N) <-> codes (B, K, N): each codebook quantises what those before it left."""

    def __init__(self, num_codebooks: int, codebook_size: int, dim: int) -> None:
        super().__init__()
        layers = [nn.ModuleDict({"_codebook": Codebook(codebook_size, dim)}) for _ in range(num_codebooks)]
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def tables(self) -> list[Tensor]:
        """(V, D) of each codebook."""
        layers: Any = self.vq["layers"]
        return [layer["_codebook"].embed for layer in layers]

    def encode(self, features: Tensor, num_codebooks: int) -> Tensor:
        """(B, D, N) -> (B, num_codebooks, N) int64, of the first codebooks."""
        residual, codes = features.mT, []
        for table in self.tables()[:num_codebooks]:
            distance = residual.square().sum(-1, keepdim=True) - 2 * residual @ table.T + table.square().sum(-1)
            codes.append(distance.argmin(-1))
            residual = residual - F.embedding(codes[-1], table)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, N), of all codebooks or the first of them, -> (B, D, N)"""
        features: Any = 0
        for row, table in zip(codes.unbind(1), self.tables(), strict=False):
            features = features + F.embedding(row, table)
        return features.mT


class Codebook(nn.Module):
    """The vectors of V codes."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(size, dim))
