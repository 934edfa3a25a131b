"""LoRA that trains the adapters, the new rows of the vocabulary, and nothing else of the embeddings (through peft)."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from ..tokenizer.focalcodec.checkpoint import read_json
from .embeddings import new_ids
from .features import SpeechLMForConditionalGeneration, language_model, without_peft
from .vocabulary import Vocabulary

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class LoRA:
    """Train small matrices beside the frozen ones of a base, and only the embedding rows that are new."""

    rank: int = 32
    alpha: float = 64  # the update is scaled by alpha / rank
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"  # names of layers; or all linear ones but for the head


def add_lora(model: PreTrainedModel, vocabulary: Vocabulary, settings: LoRA) -> PeftModel:
    """Freeze a model but for adapters on its linear layers, its new rows, and its projector if it has one.

    Raises:
        ValueError: the model has adapters already, or a head with a bias, which peft would drop.
    """
    if isinstance(model, PeftModel):
        raise ValueError("the model has adapters already: train these, or merge() them first")
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError(
            f"the head of {type(language_model(model)).__name__} has a bias, which peft drops where only some rows are "
            "trained: choose another base, or train without LoRA"
        )
    trained = [embeddings] if head.weight is embeddings.weight else [embeddings, head]  # peft ties what is tied
    has_projector = isinstance(model, SpeechLMForConditionalGeneration)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only multiplies with it
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        exclude_modules=r"projector\..*" if has_projector else None,
        modules_to_save=["projector"] if has_projector else None,
        trainable_token_indices={_name(model, module): new_ids(vocabulary) for module in trained},
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    _forget_base(adapted)
    return adapted


def base_of(model: PeftModel, folder: Path) -> str:
    """Where the base of an adapter is, seen from the adapter's folder: a hub id, "mini", or a relative path.

    Raises:
        ValueError: the base was never saved, so that nobody could find it.
    """
    base = without_peft(model).config.name_or_path
    if not base:
        raise ValueError("an adapter needs its base: save_pretrained() the model before add_lora(), and load it again")
    return Path(os.path.relpath(base, folder)).as_posix() if Path(base).is_dir() else base


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Write adapters, new rows and projector, the name of their base, and the config of both together."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form of peft's
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    without_peft(model).config.save_pretrained(folder)


def find_base(folder: Path) -> str:
    """The base of the adapter in a folder.

    Raises:
        OSError: it is no longer where it was.
    """
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or ""
    if (folder / base).is_dir():
        return str((folder / base).resolve())
    if not base or base.startswith(".") or base.count("/") > 1:
        raise OSError(
            f"{folder} is an adapter, and its base is not at {folder / base}: put it back, or name it as "
            f"base_model_name_or_path in {ADAPTER_CONFIG}"
        )
    return base


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """What `save_adapter` wrote, around its base; it can be trained on."""
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    _forget_base(model)
    return model


def merge(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapters in its weights; what was tied is tied."""
    merged = model.merge_and_unload()
    merged.tie_weights()
    return merged


def _name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _forget_base(model: PeftModel) -> None:
    """Keep peft from comparing the vocabulary with that of the base: it would save whole embeddings."""
    model.peft_config["default"].base_model_name_or_path = ""


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
