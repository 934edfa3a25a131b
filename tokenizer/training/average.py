"""An exponential moving average of the weights that learn."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """Follows the parameters; its own are often better than those of any single step.

    Args:
        parameters: by name; only those that learn.
        decay: of the average per step. It begins lower, so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.means = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the update with this number, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, mean in self.means.items():
            mean.lerp_(self.parameters[name], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this, the parameters are their averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return self.means

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where a checkpoint was written."""
        for name, mean in self.means.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self.means.items():
            weights = self.parameters[name].clone()
            self.parameters[name].copy_(mean)
            mean.copy_(weights)
