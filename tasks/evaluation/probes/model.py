"""What a probe is: a small network on frozen codes. B batch, N frames, K codebooks, V codes, D width, C classes."""

import torch
from torch import Tensor, nn

from ....tokenizer.focalcodec.masks import length_mask
from .probe_config import ProbeConfig


class Probe(nn.Module):
    """Codes (B, N, K) or features (B, N, D), and lengths (B,) -> logits of every frame (B, N, C), or of all (B, C)

    A bidirectional LSTM; for one answer its frames are pooled to their mean and standard deviation. What stands beyond
    an item's length changes nothing.

    Args:
        recipe: sizes.
        size: C.
        whole: one answer for all frames.
        tables: (V, D) of each codebook, where the embeddings of its codes begin; None for features.
        width: D of the features, where there are no tables.
    """

    def __init__(
        self, recipe: ProbeConfig, size: int, whole: bool, tables: list[Tensor] | None, width: int = 0
    ) -> None:
        super().__init__()
        self.whole = whole
        self.embedding: nn.Module = CodeEmbedding(tables) if tables else nn.Identity()
        width = tables[0].shape[1] if tables else width
        self.lstm = BiLSTM(width, recipe.hidden_size, recipe.num_layers, recipe.dropout)
        self.head = nn.Linear((4 if whole else 2) * recipe.hidden_size, size)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.lstm(self.embedding(inputs), lengths)
        return self.head(statistics(hidden, lengths) if self.whole else hidden)


class BiLSTM(nn.Module):
    """Frames (B, N, D), lengths (B,) -> (B, N, 2 hidden); what stands beyond a length does not reach what is before.

    torch's own does the same with packed sequences, whose gradient takes five times as long on a CPU.
    """

    def __init__(self, width: int, hidden: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        widths = [width] + [2 * hidden] * (num_layers - 1)
        self.forth = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.back = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[:2])
        last = lengths[:, None] - 1
        mirrored = torch.where(place <= last, last - place, place)[..., None]  # (B, N, 1), its own inverse

        def mirror(x: Tensor) -> Tensor:
            return x.gather(1, mirrored.expand_as(x))

        for i, (forth, back) in enumerate(zip(self.forth, self.back, strict=True)):
            frames = self.dropout(frames) if i else frames
            frames = torch.cat([forth(frames)[0], mirror(back(mirror(frames))[0])], dim=-1)
        return frames


class CodeEmbedding(nn.Module):
    """Ids (B, N, K), those of a codebook above those of the last, -> (B, N, D), codebooks pooled by a linear layer."""

    def __init__(self, tables: list[Tensor]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.cat(tables), freeze=False)
        self.pool = nn.Linear(len(tables), 1, bias=False) if len(tables) > 1 else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        return self.pool(self.table(ids).mT)[..., 0]  # of (B, N, D, K)


def statistics(frames: Tensor, lengths: Tensor) -> Tensor:
    """(B, N, D), (B,) -> mean and standard deviation of each item's frames, (B, 2 D)"""
    mask, count = length_mask(lengths, frames.shape[1])[..., None], lengths[:, None]
    mean = (frames * mask).sum(1) / count
    variance = ((frames - mean[:, None]).square() * mask).sum(1) / count
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)  # the root of 0 has no gradient
