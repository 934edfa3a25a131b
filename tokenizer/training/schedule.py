"""The learning rate from step to step."""

import math

from .recipe import CodecRecipe

_SMALL = 0.0025  # relative improvement of the validation loss below which NewBob slows down (spec A.2)


class Schedule:
    """Linear warm-up, times what the recipe names: a cosine, a decay per epoch, NewBob, or nothing.

    Args:
        recipe: `learning_rate`, `schedule`, `decay`, `warmup` and `steps`.
        epoch_steps: steps in which the corpus is heard once.
    """

    def __init__(self, recipe: CodecRecipe, epoch_steps: int) -> None:
        self.recipe, self.epoch_steps = recipe, epoch_steps
        self.slowed = 1.0  # NewBob's factor so far
        self.previous = math.inf  # validation loss

    def rate(self, step: int) -> float:
        """Learning rate of the update with this number, from 0."""
        r = self.recipe
        factor = 1.0
        if r.schedule == "cosine":  # down to a twentieth
            factor = 0.525 + 0.475 * math.cos(math.pi * min(1.0, step / r.steps))
        elif r.schedule == "exponential":
            factor = r.decay ** (step // self.epoch_steps)
        elif r.schedule == "newbob":
            factor = self.slowed
        return r.learning_rate * min(1.0, (step + 1) / r.warmup) * factor

    def observe(self, loss: float) -> None:
        """Take in a validation loss: NewBob multiplies the rate by `decay` where it hardly improved on the last one."""
        if self.previous - loss < _SMALL * abs(self.previous):
            self.slowed *= self.recipe.decay
        self.previous = loss

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint must hold."""
        return {"slowed": self.slowed, "previous": self.previous}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue where a checkpoint was written."""
        self.slowed, self.previous = state["slowed"], state["previous"]
