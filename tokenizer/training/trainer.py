"""One update: forward, discriminators, losses, gradients, learning rate, average."""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .adversary import Adversary
from .average import Average
from .config import CodecTrainingConfig
from .dataset import Batch
from .schedule import Schedule


class Trainer:
    """A stage with its optimiser and all that changes from step to step.

    Args:
        stage: `CodecStage`, `DistillationStage` or `TeacherStage`.
        recipe: how it learns.
        accelerator: device, precision, and the gradients of several processes.
        epoch_steps: steps in which the corpus is heard once.
    """

    def __init__(self, stage: Any, recipe: CodecTrainingConfig, accelerator: Accelerator, epoch_steps: int) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.schedule = Schedule(recipe, epoch_steps)
        self.learning: nn.Module = stage.learning()
        self.parameters = {name: p for name, p in self.learning.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            self.parameters.values(), recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay
        )
        self.stage, self.optimizer = accelerator.prepare(stage, optimizer)
        self.average = Average(self.parameters, recipe.ema) if recipe.ema else None
        self.adversary = Adversary(recipe, accelerator) if recipe.use_gan else None

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Update number `number`, from 0; -> its losses."""
        # Dropout and random crops follow from the seed and the step, on every device, so a resumed run repeats them.
        torch.manual_seed(hash((self.recipe.seed, number, self.accelerator.process_index)))
        rate = self.schedule.rate(number)
        self.stage.train()
        outcome = self.stage(batch.to(self.accelerator.device))
        logs = {}
        if self.adversary is not None and number >= self.recipe.adversarial_from:
            real, generated = outcome.real, outcome.generated
            if self.recipe.adversarial_features:
                real, generated = outcome.target, outcome.features
            logs["discriminator"] = self.adversary.discriminator_step(real, generated, rate)
            outcome.losses |= self.adversary.generator_losses(real, generated)
        loss = self.total(outcome.losses)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update(number)
        losses = {name: value.detach() for name, value in outcome.losses.items()}
        return {"loss": loss.detach(), **losses, **logs, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the losses."""
        r = self.recipe
        weights = {
            "mse": r.feature_weight,
            "entropy_loss": r.entropy_weight,
            "mel": r.mel_weight,
            "stft": r.stft_weight,
            "generator": r.adversarial_weight,
            "matching": r.matching_weight,
            "teacher": r.teacher_weight,
            "posterior": r.posterior_weight,
            "ctc": 1.0,
        }
        return torch.stack([weights[name] * value for name, value in losses.items()]).sum()

    @contextlib.contextmanager
    def eval_mode(self) -> Any:
        """Within this, the stage is in evaluation mode, with the averaged weights if there are any; yields it."""
        stage = self.accelerator.unwrap_model(self.stage)
        training = stage.training
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            stage.eval()
            yield stage
        stage.train(training)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: nothing that is frozen."""
        return {
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "adversary": self.adversary.state_dict() if self.adversary is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint was written."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
