"""WaveNeXt (Okamoto et al., 2023): the Vocos backbone with one linear layer from a frame to its samples."""

from torch import Tensor, nn

from .configuration import WaveNeXtConfig
from .masks import length_mask
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
    def __init__(self, config: WaveNeXtConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.dim, config.hop_length)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(1).clamp(-1, 1)
