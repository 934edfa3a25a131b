"""Saying so when a loss is not what it should be."""

import logging
from typing import Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

FIRST = 0.7  # nats that a fresh model may be from ln V; measured: 0.06 (256 wide), 0.23 (1024), 0.46 (2048)
LEAK = 0.25  # share of the unigram entropy that no honest model falls below in its first epoch
PATIENCE = 500  # updates after which a model should know more than how frequent each id is


class LossMonitor(TrainerCallback):
    """Explains, each at most once, a first loss that is not that of guessing, one that falls too fast, and one that
    does not fall.

    Args:
        fresh_loss: nats per target id of a model that knows nothing, ln V; None for one that was trained before.
        unigram: nats per target id of a model that knows only how frequent each is.
    """

    def __init__(self, fresh_loss: float | None, unigram: float) -> None:
        self.fresh_loss, self.unigram = fresh_loss, unigram
        self.said: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at a loss."""
        loss, step = kwargs["logs"].get("loss"), state.global_step
        if loss is None or not state.is_world_process_zero:
            return
        fresh = self.fresh_loss
        if step == 1 and fresh is not None and abs(loss - fresh) > FIRST:
            self._say(
                f"the first loss is {loss:.2f} nats, but a fresh model guesses among all ids with {fresh:.2f}.",
                "Higher: initial weights or embeddings are too large, or the loss is summed and not averaged."
                if loss > fresh
                else "Lower: most targets are one id (is padding learnt?), or the loss is divided by too many ids.",
            )
        if (state.epoch or 0) < 1 and loss < LEAK * self.unigram:
            self._say(
                f"the loss is {loss:.2f} nats in the first epoch, where the frequencies of ids alone give "
                f"{self.unigram:.2f}: this is too good.",
                "The target probably stands in what is given (look at the preview: what is in braces must not be "
                "readable outside of them), or the corpus repeats itself.",
            )
        if step >= PATIENCE and loss >= self.unigram - 0.05:
            self._say(
                f"after {step} updates the loss is {loss:.2f} nats, no less than the frequencies of ids alone give "
                f"({self.unigram:.2f}).",
                "The learning rate is too low or far too high, texts do not belong to their recordings, the targets "
                "are masked or misaligned (look at the preview), or the weights that matter are frozen.",
            )

    def _say(self, what: str, why: str) -> None:
        if why not in self.said:
            self.said.add(why)
            logger.warning("%s %s", what, why)
