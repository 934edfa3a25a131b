"""What a stage is worth on recordings that it did not learn from, each of them whole. T samples."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Batch
from .stages import Outcome
from .trainer import Trainer

logger = logging.getLogger(__name__)

Recogniser = Callable[[np.ndarray, int], str]  # audio (T,), rate in Hz -> text
Embed = Callable[[np.ndarray, int], np.ndarray]  # audio (T,), rate in Hz -> the voice, a vector of unit length


class Validation:
    """Held-out recordings.

    Args:
        batches: one recording each.
        sampling_rate: of what is decoded, in Hz.
        codebook_size: number of codes, 0 if there are none.
        recognise: what hears words, for dWER: words that change between a recording and what is decoded of it.
        embed: what hears voices, for their similarity.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        sampling_rate: int,
        codebook_size: int = 0,
        recognise: Recogniser | None = None,
        embed: Embed | None = None,
    ) -> None:
        self.batches, self.sampling_rate, self.codebook_size = batches, sampling_rate, codebook_size
        self.recognise, self.embed = recognise, embed
        self._references: list[list[str]] = []

    @torch.no_grad()
    def __call__(self, trainer: Trainer) -> tuple[dict[str, float], list[Outcome]]:
        """-> metrics, and the outcome of every recording"""
        with trainer.eval_mode() as stage:
            outcomes = [stage(batch.to(trainer.accelerator.device)) for batch in self.batches]
        names = outcomes[0].losses
        means = {name: torch.stack([o.losses[name] for o in outcomes]).mean() for name in names}
        metrics = {f"validation_{name}": float(value) for name, value in means.items()}
        metrics["validation_loss"] = float(trainer.total(means))
        if outcomes[0].tokens is not None:
            metrics |= self._use(torch.cat([o.tokens for o in outcomes]), trainer.recipe.usage_floor)
        if outcomes[0].recognised:
            metrics["validation_letter_errors"] = self._letter_errors(outcomes)
        if self.recognise is not None and outcomes[0].generated is not None:
            metrics["validation_dwer"] = self._changed_words(outcomes, self.recognise)
        if self.embed is not None and outcomes[0].generated is not None:
            metrics["validation_similarity"] = self._similarity(outcomes, self.embed)
        return metrics, outcomes

    def _use(self, tokens: Tensor, floor: float) -> dict[str, float]:
        """How evenly the codes are used, and a word about it if they are not."""
        use = code_use(tokens, self.codebook_size)
        if use["code_share"] < floor:
            logger.warning(
                "%d codes are in use, %.0f %% of those that even use of all %d would show in %d tokens: the codebook "
                "is collapsing. From scratch, waveform losses reach the decoder before the codes carry anything, and "
                "it learns to do without them. Train the stages quantizer and decoder first and name them in "
                "parts_from, raise entropy_weight or feature_weight, or lower learning_rate",
                use["codes_used"], 100 * use["code_share"], self.codebook_size, len(tokens),
            )  # fmt: skip
        return use

    def _letter_errors(self, outcomes: Sequence[Outcome]) -> float:
        texts = [text.lower() for batch in self.batches for text in batch.texts]
        found = [text for outcome in outcomes for text in outcome.recognised]
        return sum(map(edit_distance, found, texts)) / max(1, sum(map(len, texts)))

    def _changed_words(self, outcomes: Sequence[Outcome], recognise: Recogniser) -> float:
        if not self._references:
            self._references = [self._words(recognise, batch.spoken) for batch in self.batches]
        heard = [self._words(recognise, o.generated) for o in outcomes if o.generated is not None]
        return sum(map(edit_distance, heard, self._references)) / max(1, sum(map(len, self._references)))

    def _similarity(self, outcomes: Sequence[Outcome], embed: Embed) -> float:
        pairs = [(o.generated, o.real) for o in outcomes if o.generated is not None and o.real is not None]
        voices = [[embed(wave[0].float().cpu().numpy(), self.sampling_rate) for wave in pair] for pair in pairs]
        return float(np.mean([generated @ real for generated, real in voices]))

    def _words(self, recognise: Recogniser, waveform: Tensor) -> list[str]:
        return re.findall(r"[\w']+", recognise(waveform[0].float().cpu().numpy(), self.sampling_rate).lower())


def code_use(tokens: Tensor, codebook_size: int) -> dict[str, float]:
    """How many codes occur, their share of those that even use would show, and the entropy of their frequencies."""
    counts = torch.bincount(tokens, minlength=codebook_size).double()
    p = counts[counts > 0] / counts.sum()
    entropy = float(-(p * p.log2()).sum())
    expected = codebook_size * (1 - (1 - 1 / codebook_size) ** len(tokens))
    used = len(p)
    return {
        "tokens": float(len(tokens)),
        "codes_used": float(used),
        "code_share": used / expected,
        "entropy_bits": entropy,
        "normalised_entropy": entropy / np.log2(used) if used > 1 else 0.0,
    }


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Least number of insertions, deletions and substitutions from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
