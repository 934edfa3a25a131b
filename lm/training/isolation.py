"""Whether the examples of a packed row see each other: it depends on the model."""

from collections.abc import Callable
from typing import Any

import torch

from ..model import SpeechLM
from .examples import Examples

_TOLERANCE = 1e-4  # of the spread of the logits; measured: 0 where nothing is seen, 5e-4 ... 2 where something is


def check_isolation(lm: SpeechLM, examples: Examples, collate: Callable[[Any], dict[str, Any]]) -> None:
    """Ask a model about one example behind two different ones: it has to answer the same.

    Raises:
        ValueError: it does not.
    """
    row = next((row for row in examples.rows if len(row) > 1), None)
    if row is None:
        return
    first, second = examples.example(row[0]), examples.example(row[1])
    feature = lm.vocabulary.control("feature")
    others = [i if i == feature else lm.vocabulary.audio_offset for i in first["input_ids"]]
    one, other = (_logits(lm, collate([[before, second]])) for before in (first, {**first, "input_ids": others}))
    start = len(others)
    if (one - other)[start:].abs().max() > _TOLERANCE * one[start:].std():
        raise ValueError(
            f"{type(lm.model).__name__} lets the examples of a row see each other (it does not read position_ids as "
            "boundaries): set packing: false"
        )


@torch.no_grad()
def _logits(lm: SpeechLM, batch: dict[str, Any]) -> torch.Tensor:
    """(L, V) of a batch of one row"""
    training = lm.model.training
    lm.model.eval()
    inputs = {key: value.to(lm.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    logits = lm.model(**{**inputs, "labels": None}).logits[0].float()
    lm.model.train(training)
    return logits
