"""What is trained in a model."""

from typing import Any

from .base import new_ids
from .vocabulary import Vocabulary


def count_trainable(model: Any, vocabulary: Vocabulary) -> dict[str, int]:
    """Trainable parameters by part: body, adapters, new rows (of control and audio ids), projector.

    Args:
        model: a causal LM, with or without projector and adapters.
    """
    counts = {"body": 0, "adapters": 0, "new rows": 0, "projector": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_part(name)] += parameter.numel()
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for rows in [embeddings] if head is embeddings else [embeddings, head]:
        if rows.is_leaf and rows.requires_grad:  # trained as a whole; peft's are put together in every step
            new = len(new_ids(vocabulary)) * rows.shape[1]
            counts["body"], counts["new rows"] = counts["body"] - new, counts["new rows"] + new
    return counts


def _part(name: str) -> str:
    if "lora_" in name:
        return "adapters"
    if "trainable_tokens_delta" in name:
        return "new rows"
    return "projector" if "projector." in name else "body"
