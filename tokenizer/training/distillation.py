"""A causal encoder learns to hear what a full-context one hears (spec B.2 and B.3). B batch, T frames, D width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focalcodec.masks import length_mask
from ..focalcodec.modeling import FocalCodecModel
from ..focalcodec.wavlm import TransformerEncoder, WavLMEncoder
from .config import CodecTrainingConfig
from .dataset import Batch
from .stages import Outcome

_FIRST_WEIGHT, _LAST_WEIGHT = 0.5, 1.0  # of the layers' errors, evenly spaced between


class DistillationStage(nn.Module):
    """Stage position: only the positional convolution learns. Stage encoder: all but it and the relative embedding.

    Args:
        model: the causal codec.
        recipe: `stage`.
        target: the full-context codec of the same widths.

    Raises:
        ValueError: one of the encoders is no WavLM, or they differ in width or layers.
    """

    def __init__(self, model: FocalCodecModel, recipe: CodecTrainingConfig, target: FocalCodecModel) -> None:
        super().__init__()
        self.model, self.target = model, target
        encoders = model.encoder, target.encoder
        sizes = [
            (e.config.dim, e.config.num_layers) if isinstance(e, WavLMEncoder) else "no WavLM encoder" for e in encoders
        ]
        if isinstance(sizes[0], str) or sizes[0] != sizes[1]:
            raise ValueError(
                f"model.encoder is to be distilled from the encoder of target, so both are WavLM encoders of the same "
                f"(dim, num_layers), found {sizes[0]} and {sizes[1]}"
            )
        self.positional = recipe.stage == "position"
        self.requires_grad_(False)
        transformer = _transformer(model)
        model.encoder.requires_grad_(not self.positional)
        transformer.relative_embedding.requires_grad_(False)
        transformer.positional_embedding.requires_grad_(self.positional)

    def learning(self) -> FocalCodecModel:
        """What a checkpoint and the finished run hold."""
        return self.model

    def forward(self, batch: Batch) -> Outcome:
        """Squared error of the positional convolution's output, or of the layers' outputs, weighted."""
        with torch.no_grad():
            wanted = self._outputs(self.target, batch)
        found = self._outputs(self.model, batch)
        frames = torch.minimum(*(m.encoder.num_frames(batch.lengths) for m in (self.model, self.target)))
        weights = torch.linspace(_FIRST_WEIGHT, _LAST_WEIGHT, len(found)) if len(found) > 1 else torch.ones(1)
        size = int(frames.max())
        real = length_mask(frames, size)
        errors = [
            weight * F.mse_loss(a[:, :size][real], b[:, :size][real])
            for weight, a, b in zip(weights.tolist(), found, wanted, strict=True)
        ]
        return Outcome({"mse": torch.stack(errors).mean()})

    def _outputs(self, model: FocalCodecModel, batch: Batch) -> list[Tensor]:
        """What the positional convolution adds, or the outputs of all layers: each (B, T, D)."""
        transformer, outputs = _transformer(model), list[Tensor]()
        watched = [transformer.positional_embedding] if self.positional else list(transformer.layers)
        hooks = [module.register_forward_hook(lambda *call: outputs.append(call[2])) for module in watched]
        try:
            model.encoder(batch.heard, batch.lengths, model._new_state(batch.heard))
        finally:
            for hook in hooks:
                hook.remove()
        return outputs


def _transformer(model: FocalCodecModel) -> TransformerEncoder:
    assert isinstance(model.encoder, WavLMEncoder)
    return model.encoder.encoder
