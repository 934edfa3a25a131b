"""Quantisation by k-means: a code is the nearest of the cluster means. B batch, N frames, D width, K codebooks."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.layers import full_precision


class KMeansQuantizer(nn.Module):
    """One k-means codebook for each of several features."""

    def __init__(self, num_codebooks: int, num_clusters: int, dim: int) -> None:
        super().__init__()
        self.kmeanss: Iterable[KMeans] = nn.ModuleList(  # type: ignore[assignment]
            KMeans(num_clusters, dim) for _ in range(num_codebooks)
        )

    @full_precision
    def encode(self, features: Tensor) -> Tensor:
        """(B, N, D, K) -> (B, K, N) int64"""
        pairs = zip(self.kmeanss, features.unbind(-1), strict=True)
        return torch.stack([kmeans.encode(x) for kmeans, x in pairs], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, N) -> (B, N, D, K)"""
        pairs = zip(self.kmeanss, codes.unbind(1), strict=True)
        return torch.stack([F.embedding(x, kmeans.table()) for kmeans, x in pairs], dim=-1)


class KMeans(nn.Module):
    """The means of clusters of features."""

    centroids: Tensor

    def __init__(self, num_clusters: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.full((num_clusters, dim), torch.inf))  # infinite: not fitted

    def table(self) -> Tensor:
        """(clusters, D)

        Raises:
            ValueError: not fitted.
        """
        unfitted = int((~self.centroids.isfinite().all(dim=1)).sum())
        if unfitted:
            raise ValueError(
                f"{unfitted} of {len(self.centroids)} clusters of the quantizer have no finite centroid: its k-means "
                "was never fitted, or its file is damaged; fetch quantizer_6.safetensors again"
            )
        return self.centroids

    def encode(self, x: Tensor) -> Tensor:
        """(B, N, D) -> the nearest cluster, (B, N) int64; the lowest of equally near ones."""
        table = self.table()
        squared = x.square().sum(-1, keepdim=True) + table.square().sum(-1) - 2 * x @ table.T
        return squared.clamp(min=0).sqrt().argmin(-1)  # the root as in the reference: rounding makes ties
