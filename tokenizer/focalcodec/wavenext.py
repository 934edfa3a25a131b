"""WaveNeXt (Okamoto et al., 2023): the Vocos backbone with one linear layer from a frame to its samples."""

from torch import Tensor, nn

from .masks import length_mask
from .parts import WaveNeXtConfig
from .state import StreamState
from .vocos import ConvNeXtBackbone


class WaveNeXt(nn.Module):
    """Features (B, T, input_dim) -> waveform (B, T * hop_length) in [-1, 1]."""

    def __init__(self, config: WaveNeXtConfig) -> None:
        super().__init__()
        self.backbone = ConvNeXtBackbone(config)
        self.head = LinearHead(config)

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        """lengths (B,) in frames."""
        mask = None if lengths is None else length_mask(lengths, x.shape[1])
        return self.head(self.backbone(x, mask, state))


class LinearHead(nn.Module):
    """Frames (B, T, dim) -> their samples (B, T * hop_length), clipped to [-1, 1]."""

    def __init__(self, config: WaveNeXtConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.dim, config.hop_length)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T * hop_length)"""
        return self.proj(x).flatten(1).clamp(-1, 1)
