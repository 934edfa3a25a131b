"""The learning rate from step to step."""

import math

from .config import CodecTrainingConfig

_SMALL = 0.0025  # relative improvement of the validation loss below which NewBob slows down (spec A.2)


class NewBob:
    """A factor that shrinks where a validation loss hardly improves on the one before it.

    Args:
        decay: what the factor is multiplied with.
        patience: how many such losses are let pass each time.
    """

    def __init__(self, decay: float, patience: int = 0) -> None:
        self.decay, self.patience = decay, patience
        self.factor = 1.0
        self.passed = 0
        self.previous = math.inf

    def observe(self, loss: float) -> None:
        """Take in a validation loss."""
        if self.previous - loss < _SMALL * abs(self.previous):
            if self.passed == self.patience:
                self.factor, self.passed = self.factor * self.decay, 0
            else:
                self.passed += 1
        self.previous = loss

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint must hold."""
        return {"slowed": self.factor, "passed": self.passed, "previous": self.previous}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue where a checkpoint was written; older ones know no patience."""
        self.factor, self.passed, self.previous = state["slowed"], int(state.get("passed", 0)), state["previous"]


class Schedule:
    """Linear warm-up, times what the recipe names: a cosine, a decay per epoch, NewBob, or nothing.

    Args:
        recipe: `learning_rate`, `schedule`, `decay`, `warmup` and `steps`.
        epoch_steps: steps in which the corpus is heard once.
    """

    def __init__(self, recipe: CodecTrainingConfig, epoch_steps: int) -> None:
        self.recipe, self.epoch_steps = recipe, epoch_steps
        self.newbob = NewBob(recipe.decay)

    def rate(self, step: int) -> float:
        """Learning rate of the update with this number, from 0."""
        r = self.recipe
        factor = 1.0
        if r.schedule == "cosine":  # down to a twentieth
            factor = 0.525 + 0.475 * math.cos(math.pi * min(1.0, step / r.steps))
        elif r.schedule == "exponential":
            factor = r.decay ** (step // self.epoch_steps)
        elif r.schedule == "newbob":
            factor = self.newbob.factor
        return r.learning_rate * min(1.0, (step + 1) / r.warmup) * factor

    def observe(self, loss: float) -> None:
        """Take in a validation loss: NewBob multiplies the rate by `decay` where it hardly improved on the last one."""
        self.newbob.observe(loss)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint must hold."""
        return self.newbob.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue where a checkpoint was written."""
        self.newbob.load_state_dict(state)
