"""LoRA (through peft) that trains adapters and the new rows of the vocabulary, and keeps all other weights frozen."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from transformers import PreTrainedModel

from ..tokenizer.config_checks import check_sizes
from ..tokenizer.configs import read_json
from .embeddings import new_ids
from .features import SpeechLMForConditionalGeneration, language_model, without_peft
from .vocabulary import Vocabulary

# Importing peft takes a quarter of a second, and few models have adapters.
if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class LoRA:
    """Settings of LoRA.

    Args:
        rank: of the adapter matrices.
        alpha: the update is scaled by alpha / rank.
        dropout: of the inputs of adapters.
        targets: names of the layers that get adapters, or "all-linear" for all linear layers except the head.
    """

    rank: int = 32
    alpha: float = 64
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"


def has_adapters(model: Any) -> "TypeGuard[PeftModel]":
    """Return whether a model is wrapped by peft."""
    return without_peft(model) is not model


def add_lora(model: PreTrainedModel, vocabulary: Vocabulary, settings: LoRA) -> "PeftModel":
    """Freeze a model, except for adapters on its linear layers, its new rows, and its projector if it has one.

    Raises:
        ValueError: the model has adapters already, or a head with a bias, which peft would drop.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if has_adapters(model):
        raise ValueError("the model has adapters already: train these, or merge() them first")
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError(
            f"the head of {type(language_model(model)).__name__} has a bias, which peft drops where only some rows are "
            "trained: choose another base, or train without LoRA"
        )
    modules_with_rows = [embeddings]
    if head.weight is not embeddings.weight:  # peft ties what is tied
        modules_with_rows.append(head)
    trainable_rows: dict[str, list[int]] = {}
    for name, module in model.named_modules():
        if module in modules_with_rows:
            trainable_rows[name] = new_ids(vocabulary)
    has_projector = isinstance(model, SpeechLMForConditionalGeneration)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only multiplies with it
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        exclude_modules=r"projector\..*" if has_projector else None,
        modules_to_save=["projector"] if has_projector else None,
        trainable_token_indices=trainable_rows,
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    _forget_base(adapted)
    return adapted


def base_of(model: "PeftModel", folder: Path) -> str:
    """Return where the base of an adapter is: a hub id, "mini", or a path relative to the adapter's folder.

    Raises:
        ValueError: the base was never saved, so it could not be loaded again.
    """
    base = without_peft(model).config.name_or_path
    if not base:
        raise ValueError("an adapter needs its base: save_pretrained() the model before add_lora(), and load it again")
    return Path(os.path.relpath(base, folder)).as_posix() if Path(base).is_dir() else base


def save_adapter(model: "PeftModel", folder: Path, base: str) -> None:
    """Write adapters, new rows and projector, the name of their base, and the config of the whole model."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # peft writes a model card with an empty form.
    (folder / "README.md").unlink(missing_ok=True)
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(folder))
    without_peft(model).config.save_pretrained(folder)


def find_base(folder: Path) -> str:
    """Return the base of the adapter in a folder.

    Raises:
        OSError: the base is no longer where it was.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    check_sizes(config, folder / ADAPTER_CONFIG)
    if not (folder / "adapter_model.safetensors").is_file():
        raise OSError(f"{folder} has an {ADAPTER_CONFIG}, but no adapter_model.safetensors: copy it again")
    base = str(config.get("base_model_name_or_path") or "")
    if (folder / base).is_dir():
        return str((folder / base).resolve())
    # Anything else that looks like a path is not a hub id.
    if not base or base.startswith(".") or base.count("/") > 1:
        raise OSError(
            f"{folder} is an adapter, and its base is not at {folder / base}: put it back, or name it as "
            f"base_model_name_or_path in {ADAPTER_CONFIG}"
        )
    return base


def load_adapter(base: PreTrainedModel, folder: Path) -> "PeftModel":
    """Load an adapter that `save_adapter` wrote around its base; it can be trained further."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    _forget_base(model)
    return model


def merge(model: "PeftModel") -> PreTrainedModel:
    """Return the plain model with the adapters merged into its weights; tied weights stay tied."""
    merged = model.merge_and_unload()
    merged.tie_weights()
    return merged


def _forget_base(model: "PeftModel") -> None:
    """Keep peft from comparing the vocabulary with that of the base, because it would then save whole embeddings."""
    model.peft_config["default"].base_model_name_or_path = ""


def count_trainable(model: Any, vocabulary: Vocabulary) -> dict[str, int]:
    """Count the trainable parameters of a model by part.

    Args:
        model: a causal LM, with or without projector and adapters.
        vocabulary: of the model.

    Returns:
        Counts for "body", "adapters", "new rows" (of control and audio ids) and "projector".
    """
    counts = {"body": 0, "adapters": 0, "new rows": 0, "projector": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_part_of(name)] += parameter.numel()
    embeddings = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    for rows in [embeddings] if head is embeddings else [embeddings, head]:
        # With peft the weight is not a leaf: it is put together in every step from frozen and new rows, counted above.
        if rows.is_leaf and rows.requires_grad:
            num_new = len(new_ids(vocabulary)) * rows.shape[1]
            counts["body"] -= num_new
            counts["new rows"] += num_new
    return counts


def _part_of(parameter_name: str) -> str:
    if "lora_" in parameter_name:
        return "adapters"
    if "trainable_tokens_delta" in parameter_name:
        return "new rows"
    if "projector." in parameter_name:
        return "projector"
    return "body"
