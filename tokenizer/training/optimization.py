"""Learning rate schedules, and the moving average of weights."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .config import CodecTrainingConfig

_MIN_IMPROVEMENT = 0.0025  # relative improvement of the validation loss below which NewBob lowers the rate


class NewBob:
    """A factor of the learning rate that shrinks when the validation loss stops improving.

    Args:
        decay: value by which the factor is multiplied.
        patience: number of losses without improvement that are tolerated each time.
    """

    def __init__(self, decay: float, patience: int = 0) -> None:
        self.decay = decay
        self.patience = patience
        self.factor = 1.0
        self.num_tolerated = 0
        self.previous = math.inf

    def observe(self, loss: float) -> None:
        """Update the factor after a validation."""
        # The loss may be negative: that of stage quantizer contains a negative entropy.
        if self.previous - loss < _MIN_IMPROVEMENT * abs(self.previous):
            if self.num_tolerated == self.patience:
                self.factor *= self.decay
                self.num_tolerated = 0
            else:
                self.num_tolerated += 1
        self.previous = loss

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {"factor": self.factor, "num_tolerated": self.num_tolerated, "previous": self.previous}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state from a checkpoint."""
        self.factor = state["factor"]
        self.num_tolerated = int(state["num_tolerated"])
        self.previous = state["previous"]


class Schedule:
    """The learning rate: linear warm-up times the schedule of the config.

    Args:
        config: `learning_rate`, `schedule`, `decay`, `warmup_steps` and `steps`.
        steps_per_epoch: for the exponential schedule.
    """

    def __init__(self, config: CodecTrainingConfig, steps_per_epoch: int) -> None:
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.newbob = NewBob(config.decay)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        config = self.config
        factor = 1.0
        if config.schedule == "cosine":  # down to a twentieth
            factor = 0.525 + 0.475 * math.cos(math.pi * min(1.0, step / config.steps))
        elif config.schedule == "exponential":
            factor = config.decay ** (step // self.steps_per_epoch)
        elif config.schedule == "newbob":
            factor = self.newbob.factor
        return config.learning_rate * min(1.0, (step + 1) / config.warmup_steps) * factor

    def observe(self, loss: float) -> None:
        """Update the schedule after a validation. Only NewBob depends on the loss."""
        self.newbob.observe(loss)

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return self.newbob.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state from a checkpoint."""
        self.newbob.load_state_dict(state)


class WeightAverage:
    """Exponential moving average of parameters, which is often better than the weights of any single step.

    Args:
        parameters: parameters by name.
        decay: decay of the average per step. It is lower in the first steps, to forget the initial weights soon.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.means = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, mean in self.means.items():
            mean.lerp_(self.parameters[name], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by their averages within this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint."""
        return self.means

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state from a checkpoint."""
        for name, mean in self.means.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self.means.items():
            weights = self.parameters[name].clone()
            self.parameters[name].copy_(mean)
            mean.copy_(weights)
