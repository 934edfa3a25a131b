"""The loss of a speech LM, the measures beside it, and warnings about losses that look wrong.

Training and evaluation compute the loss with the same function, `target_nats`. Only training adds code smoothing to it,
so that the evaluation loss is always in plain nats per target id.

Shapes: B rows, L length of a row, M targets, V ids, b bits of a code.
"""

import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from ..model import SpeechLM

logger = logging.getLogger(__name__)


def target_nats(
    logits: Tensor, targets: Tensor, codes: range = range(0), code_bits: int = 0, code_smoothing: float = 0.0
) -> Tensor:
    """Return the negative log-likelihood of each target in nats.

    With code smoothing, a share of the target probability lies on the b codes that differ from the target in one bit.
    This is label smoothing (Szegedy et al., 2016, arXiv 1512.00567, section 7) where the codebook says which labels are
    similar. A target that is no code keeps the whole probability.

    Args:
        logits: (M, V).
        targets: (M,) ids.
        codes: The ids of the codes, for code smoothing.
        code_bits: b.
        code_smoothing: The share of the similar codes; for training only.

    Returns:
        (M,) nats.
    """
    log_probs = logits.float().log_softmax(-1)
    nats = -log_probs.gather(1, targets[:, None])[:, 0]
    if code_smoothing == 0:
        return nats

    # Flip each bit of each code. Without bits, and for targets that are not codes, the target itself is the neighbor.
    bit_flips = torch.tensor([1 << bit for bit in range(code_bits)] or [0], device=targets.device)
    is_code = (targets >= codes.start) & (targets < codes.stop)
    flipped = codes.start + ((targets - codes.start)[:, None] ^ bit_flips)
    neighbors = torch.where(is_code[:, None], flipped, targets[:, None])
    neighbor_nats = -log_probs.gather(1, neighbors).mean(1)
    return (1 - code_smoothing) * nats + code_smoothing * neighbor_nats


class EvaluationMetrics:
    """Loss and accuracy of an evaluation, as exact means over target ids rather than over batches.

    The instance is the Trainer's `preprocess_logits_for_metrics`, which keeps sums instead of all logits, and `compute`
    is its `compute_metrics`.
    """

    def __init__(self, lm: SpeechLM) -> None:
        self.codes = lm.vocabulary.audio_range
        self.code_bits = lm.code_bits

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return sums (B, 5) of a batch: nats, targets, correct codes, target codes, correct bits.

        Args:
            logits: (B, L, V).
            labels: (B, L), -100 where there is no target.
        """
        is_target = labels[:, 1:] >= 0
        targets = labels[:, 1:][is_target]
        logits = logits[:, :-1][is_target]
        nats = target_nats(logits, targets)
        is_code = (targets >= self.codes.start) & (targets < self.codes.stop)
        predicted_codes = logits[:, self.codes.start : self.codes.stop].argmax(-1)
        wrong_bits = (predicted_codes ^ (targets - self.codes.start)) * is_code
        num_wrong_bits = torch.zeros_like(targets)
        for bit in range(self.code_bits):
            num_wrong_bits += (wrong_bits >> bit) & 1
        num_right_bits = is_code * (self.code_bits - num_wrong_bits)
        is_right = is_code & (wrong_bits == 0)
        columns = torch.stack([nats, torch.ones_like(nats), is_right, is_code, num_right_bits], dim=1)
        rows = torch.nonzero(is_target)[:, 0]
        return columns.new_zeros(len(is_target), 5).index_add_(0, rows, columns)

    def compute(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return means over all targets, and over those that are codes, from the sums (rows, 5) of all batches."""
        sums = np.asarray(prediction.predictions, np.float64).sum(0)
        nats, num_targets, num_right_codes, num_codes, num_right_bits = sums
        metrics = {"nats": nats / num_targets, "perplexity": math.exp(min(nats / num_targets, 99.0))}
        if num_codes:
            metrics["code_accuracy"] = num_right_codes / num_codes
        if num_codes and self.code_bits:
            metrics["bit_accuracy"] = num_right_bits / num_codes / self.code_bits
        return metrics


# How many nats the first loss of a new model may differ from ln V. Measured: 0.06 (256 wide), 0.23 (1024), 0.46 (2048).
FIRST_LOSS_TOLERANCE = 0.7
# Share of the unigram entropy below which a loss in the first epoch means that the target leaks into the input.
LEAK_SHARE = 0.25
# Number of updates after which a model should have learned more than how frequent each id is.
PATIENCE = 500


class LossMonitor(TrainerCallback):
    """Warns, once for each cause, about a training loss that looks wrong.

    Args:
        initial_loss: Nats per target id of an untrained model, ln V; None for a model that was trained before.
        unigram_entropy: Nats per target id of a model that has learned only how frequent each id is.
    """

    def __init__(self, initial_loss: float | None, unigram_entropy: float) -> None:
        self.initial_loss = initial_loss
        self.unigram_entropy = unigram_entropy
        self.warned: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check a loss that the Trainer logs."""
        loss = kwargs["logs"].get("loss")
        if loss is None or not state.is_world_process_zero:
            return
        if state.global_step == 1 and self.initial_loss is not None:
            self._check_first_loss(loss, self.initial_loss)
        if (state.epoch or 0) < 1 and loss < LEAK_SHARE * self.unigram_entropy:
            self._warn(
                f"the loss is {loss:.2f} nats in the first epoch, where the frequencies of ids alone give "
                f"{self.unigram_entropy:.2f}: this is too good.",
                "The target is probably part of the input (look at the preview: what is in braces must not be readable "
                "outside of them), or the corpus repeats itself.",
            )
        if state.global_step >= PATIENCE and loss >= self.unigram_entropy - 0.05:
            self._warn(
                f"after {state.global_step} updates the loss is {loss:.2f} nats, no less than the frequencies of ids "
                f"alone give ({self.unigram_entropy:.2f}).",
                "The learning rate is too low or far too high, texts do not belong to their recordings, the targets "
                "are masked or misaligned (look at the preview), or the weights that matter are frozen.",
            )

    def _check_first_loss(self, loss: float, expected: float) -> None:
        if abs(loss - expected) <= FIRST_LOSS_TOLERANCE:
            return
        what = f"the first loss is {loss:.2f} nats, but a new model guesses among all ids with {expected:.2f}."
        if loss > expected:
            self._warn(what, "Initial weights or embeddings are too large, or the loss is summed and not averaged.")
        else:
            self._warn(what, "Most targets are one id (is padding a target?), or the loss is divided by too many ids.")

    def _warn(self, what: str, why: str) -> None:
        if why not in self.warned:
            self.warned.add(why)
            logger.warning("%s %s", what, why)
