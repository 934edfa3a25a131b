"""Any causal LM as the beginning of a speech LM: loading it, and rows for the ids that it does not know. H width."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from .features import SpeechLMForConditionalGeneration
from .positions import RESTARTS
from .vocabulary import Vocabulary


def new_ids(vocabulary: Vocabulary) -> list[int]:
    """The control and audio ids: the rows that a text LM does not bring."""
    return sorted({*vocabulary.controls.values(), *vocabulary.audio_range})


def load_base(base: str | Path, **kwargs: Any) -> PreTrainedModel:
    """A causal LM of transformers, float32 unless `dtype` is given; safetensors only.

    Keys too many are left to transformers: checkpoints of the hub bring parts that a causal LM has no use for.

    Raises:
        OSError: nothing there, or no safetensors weights.
        ValueError: weights are missing.
    """
    options: dict[str, Any] = {"dtype": torch.float32, **kwargs, "use_safetensors": True, "output_loading_info": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(base, **options)
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{base} lacks {len(missing)} weights, such as {missing[:3]}: fetch it again")
    model.config.name_or_path = reference(base)
    return model


def reference(source: str | Path) -> str:
    """A source as a model remembers it: "mini", a hub id, or a path that holds wherever the process goes."""
    return str(Path(source).resolve()) if str(source) != "mini" and Path(source).is_dir() else str(source)


def fit(
    model: PreTrainedModel, vocabulary: Vocabulary, feature_size: int | None, known: Collection[int] | None = None
) -> PreTrainedModel:
    """Give a causal LM rows for a vocabulary, a multiple of 64 in all, and a projector if it has to read features.

    New rows start at the mean of the old ones: where they start is the same every time that a base is opened, which
    adapters rely on.

    Args:
        known: ids of the base's tokenizer; its spare rows, which others may take, start at the mean too. By default
            every row that is there stays as it is.
    """
    _add_rows(model, vocabulary, known)
    config = model.config.get_text_config()
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    config.tie_word_embeddings = head.weight is embeddings.weight  # what is, not what was meant
    name_special_ids(model, vocabulary)
    if feature_size is None or isinstance(model, SpeechLMForConditionalGeneration):
        return model
    return with_projector(model, vocabulary, feature_size)


def with_projector(model: PreTrainedModel, vocabulary: Vocabulary, feature_size: int) -> PreTrainedModel:
    """A causal LM that also reads features, and writes alongside them."""
    restart_ids = [vocabulary.control(name) for name in RESTARTS]
    return SpeechLMForConditionalGeneration.wrap(model, feature_size, vocabulary.control("feature"), restart_ids)


def name_special_ids(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Padding and end in both configurations; how the base likes to sample (its penalties) is dropped."""
    ids = {"pad_token_id": vocabulary.control("pad"), "eos_token_id": vocabulary.control("end")}
    model.config.get_text_config().update(ids)
    model.generation_config = GenerationConfig(**ids)


@torch.no_grad()
def _add_rows(model: Any, vocabulary: Vocabulary, known: Collection[int] | None) -> None:
    old, added = model.get_input_embeddings().weight.shape[0], new_ids(vocabulary)
    model.resize_token_embeddings(max(old, len(vocabulary)), pad_to_multiple_of=64, mean_resizing=False)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    spare = [i for i in added if i < old and known is not None and i not in known]
    kept = torch.ones(old, dtype=torch.bool)
    kept[[i for i in added if i < old]] = False
    tensors = [embeddings.weight] if head.weight is embeddings.weight else [embeddings.weight, head.weight]
    for tensor in [*tensors, *([] if head.bias is None else [head.bias])]:
        mean = tensor[:old][kept.to(tensor.device)].float().mean(dim=0).to(tensor.dtype)
        tensor[spare] = mean
        tensor[old:] = mean
