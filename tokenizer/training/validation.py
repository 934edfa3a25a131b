"""Evaluation of a stage on whole recordings that are not in its training set. T samples."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..codec import code_usage
from .dataset import Batch
from .losses import weighted_sum
from .stages import StageOutput

logger = logging.getLogger(__name__)

TranscribeFunction = Callable[[np.ndarray, int], str]  # audio (T,), rate in Hz -> text
EmbedFunction = Callable[[np.ndarray, int], np.ndarray]  # audio (T,), rate in Hz -> speaker embedding of unit length

# A warning is logged if fewer codes are in use than this share of those that uniform use would show.
_MIN_CODE_SHARE = 0.5


class Validation:
    """Evaluates a stage on the validation recordings.

    Args:
        batches: batches of one recording each.
        sampling_rate: rate of decoded audio in Hz.
        codebook_size: number of codes, 0 if there are none.
        asr: function that transcribes audio, for the share of words that differ between a recording and its decoded
            version (dWER).
        embed: function that computes speaker embeddings, for the similarity of the two.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        sampling_rate: int,
        codebook_size: int = 0,
        asr: TranscribeFunction | None = None,
        embed: EmbedFunction | None = None,
    ) -> None:
        self.batches = batches
        self.sampling_rate = sampling_rate
        self.codebook_size = codebook_size
        self.asr = asr
        self.embed = embed
        self._references: list[list[str]] = []  # words of the recordings, transcribed in the first evaluation

    @torch.no_grad()
    def __call__(
        self, stage: nn.Module, loss_weights: Mapping[str, float], device: torch.device
    ) -> tuple[dict[str, float], list[StageOutput]]:
        """Evaluate a stage that is in evaluation mode.

        Args:
            stage: the stage.
            loss_weights: weight of each loss in the total.
            device: device of the stage.

        Returns:
            The metrics by name, and the output for every recording.
        """
        outputs: list[StageOutput] = [stage(batch.to(device)) for batch in self.batches]
        first = outputs[0]
        means = {}
        metrics = {}
        for name in first.losses:
            means[name] = torch.stack([output.losses[name] for output in outputs]).mean()
            metrics[f"validation_{name}"] = float(means[name])
        metrics["validation_loss"] = float(weighted_sum(means, loss_weights))
        tokens = [output.tokens for output in outputs if output.tokens is not None]
        if tokens:
            usage = code_usage(torch.cat(tokens), self.codebook_size)
            metrics |= usage
            self._warn_of_collapse(usage)
        if first.transcripts:
            metrics["validation_letter_errors"] = self._letter_error_rate(outputs)
        if first.decoded is not None and self.asr is not None:
            metrics["validation_dwer"] = self._word_error_rate(outputs, self.asr)
        if first.decoded is not None and self.embed is not None:
            metrics["validation_similarity"] = self._similarity(outputs, self.embed)
        return metrics, outputs

    def _warn_of_collapse(self, usage: Mapping[str, float]) -> None:
        if usage["code_share"] < _MIN_CODE_SHARE:
            logger.warning(
                "%d codes are in use, %.0f %% of those that uniform use of all %d would show in %d tokens: the "
                "codebook is collapsing. If all parts are trained from scratch, the decoder learns to ignore the "
                "codes before they carry information. Train the stages quantizer and decoder first and name them in "
                "parts_from, raise entropy.weight or feature_weight, or lower learning_rate",
                usage["codes_used"], 100 * usage["code_share"], self.codebook_size, usage["tokens"],
            )  # fmt: skip

    def _letter_error_rate(self, outputs: Sequence[StageOutput]) -> float:
        errors = 0
        num_letters = 0
        for batch, output in zip(self.batches, outputs, strict=True):
            for text, transcript in zip(batch.texts, output.transcripts, strict=True):
                errors += edit_distance(transcript, text.lower())
                num_letters += len(text)
        return errors / max(1, num_letters)

    def _word_error_rate(self, outputs: Sequence[StageOutput], asr: TranscribeFunction) -> float:
        if not self._references:
            self._references = [self._words(asr, batch.target_audio) for batch in self.batches]
        errors = 0
        num_words = 0
        for output, reference in zip(outputs, self._references, strict=True):
            assert output.decoded is not None
            errors += edit_distance(self._words(asr, output.decoded), reference)
            num_words += len(reference)
        return errors / max(1, num_words)

    def _similarity(self, outputs: Sequence[StageOutput], embed: EmbedFunction) -> float:
        similarities = []
        for output in outputs:
            assert output.decoded is not None
            assert output.target_audio is not None
            decoded = embed(output.decoded[0].float().cpu().numpy(), self.sampling_rate)
            target = embed(output.target_audio[0].float().cpu().numpy(), self.sampling_rate)
            similarities.append(decoded @ target)
        return float(np.mean(similarities))

    def _words(self, asr: TranscribeFunction, waveform: Tensor) -> list[str]:
        transcript = asr(waveform[0].float().cpu().numpy(), self.sampling_rate)
        return re.findall(r"[\w']+", transcript.lower())


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return the smallest number of insertions, deletions and substitutions that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal = row[0]
        row[0] = i
        for j, y in enumerate(b, 1):
            substitution = diagonal + (x != y)
            diagonal = row[j]
            row[j] = min(row[j] + 1, row[j - 1] + 1, substitution)
    return row[-1]
