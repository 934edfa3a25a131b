"""The discriminators as an opponent: they learn first, then the generator answers. B batch, T samples."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from . import losses
from .config import CodecTrainingConfig
from .discriminators import Discriminators, FeatureDiscriminator


class Adversary:
    """Discriminators with their optimiser.

    Args:
        recipe: widths, weights and the optimiser's settings.
        accelerator: puts them on its device, and averages their gradients over processes.
    """

    def __init__(self, recipe: CodecTrainingConfig, accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        discriminators: nn.Module
        if recipe.adversarial_features:
            discriminators = FeatureDiscriminator(recipe.discriminator_width)
        else:
            discriminators = Discriminators(
                recipe.discriminator_width,
                scales=recipe.discriminator_scales,
                resolutions=recipe.discriminator_resolutions,
            )
        optimizer = torch.optim.AdamW(
            discriminators.parameters(), recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay
        )
        self.discriminators, self.optimizer = accelerator.prepare(discriminators, optimizer)

    def discriminator_step(self, real: Tensor, generated: Tensor, rate: float) -> Tensor:
        """One update on (B, T) waveforms, or (B, T, D) features, at `discriminator_rate` x rate; -> the hinge loss."""
        scores, _ = self.discriminators(torch.cat([real, generated.detach()]))
        real_scores, fake_scores = zip(*(score.float().chunk(2) for score in scores), strict=True)
        loss = losses.discriminator_loss(real_scores, fake_scores)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.discriminators.parameters(), self.recipe.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.recipe.discriminator_rate
        self.optimizer.step()
        return loss.detach()

    def generator_losses(self, real: Tensor, generated: Tensor) -> dict[str, Tensor]:
        """Losses of the generator: to be taken for real, and to look alike inside the discriminators."""
        discriminators = self.accelerator.unwrap_model(self.discriminators)  # no gradients to average here
        discriminators.requires_grad_(False)
        with torch.no_grad():
            _, real_activations = discriminators(real)
        scores, activations = discriminators(generated)
        discriminators.requires_grad_(True)
        return {
            "generator": losses.generator_loss(scores),
            "matching": losses.feature_matching_loss(real_activations, activations),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        discriminators = self.accelerator.unwrap_model(self.discriminators)
        return {"discriminators": discriminators.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint was written."""
        self.accelerator.unwrap_model(self.discriminators).load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])
