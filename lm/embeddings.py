"""Embedding rows for control and audio ids: adding them to any causal LM, and initializing them.

V audio ids, K codebooks, D width of a code vector, H width of an embedding.
"""

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from ..tokenizer.codec import Codec
from .features import RESTART_CONTROLS, SpeechLMForConditionalGeneration
from .vocabulary import Vocabulary

EmbeddingInit = Literal["mean", "codec"]


def new_ids(vocabulary: Vocabulary) -> list[int]:
    """Return the control and audio ids, whose rows a text LM lacks."""
    return sorted({*vocabulary.controls.values(), *vocabulary.audio_range})


def adapt_to_vocabulary(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    feature_size: int | None,
    known_ids: Collection[int] | None = None,
) -> PreTrainedModel:
    """Add embedding rows for a vocabulary to a causal LM, and a projector if it has to read features.

    The number of rows becomes a multiple of 64. New rows start at the mean of the old ones. Adapters rely on the new
    rows being the same every time the base is loaded.

    Args:
        model: a causal LM.
        vocabulary: text, control and audio ids.
        feature_size: width of the features, or None for none.
        known_ids: ids of the base's tokenizer. Spare rows of the base, which the new ids take, start at the mean too.
            By default all rows of the base stay as they are.
    """
    _add_rows(model, vocabulary, known_ids)
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    # The config of a base may be wrong about this.
    model.config.get_text_config().tie_word_embeddings = head.weight is embeddings.weight
    set_special_ids(model, vocabulary)
    if feature_size is None or isinstance(model, SpeechLMForConditionalGeneration):
        return model
    return add_projector(model, vocabulary, feature_size)


def add_projector(model: PreTrainedModel, vocabulary: Vocabulary, feature_size: int) -> PreTrainedModel:
    """Make a causal LM read features, and align the positions of its output to them."""
    restart_ids = list(map(vocabulary.control, RESTART_CONTROLS))
    return SpeechLMForConditionalGeneration.wrap(model, feature_size, vocabulary.control("feature"), restart_ids)


def set_special_ids(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Set the padding and end ids of a model; the sampling options of its base, such as penalties, are dropped."""
    ids = {"pad_token_id": vocabulary.control("pad"), "eos_token_id": vocabulary.control("end")}
    model.config.get_text_config().update(ids)
    model.generation_config = GenerationConfig(**ids)


@torch.no_grad()
def _add_rows(model: Any, vocabulary: Vocabulary, known_ids: Collection[int] | None) -> None:
    num_old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(max(num_old, len(vocabulary)), pad_to_multiple_of=64, mean_resizing=False)
    # New ids in old rows: spare rows of the base are overwritten, and no row of a new id counts in the mean.
    reused_ids = [i for i in new_ids(vocabulary) if i < num_old]
    spare_ids = [] if known_ids is None else sorted(set(reused_ids).difference(known_ids))
    in_mean = torch.ones(num_old, dtype=torch.bool)
    in_mean[reused_ids] = False

    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()
    tensors = [embeddings.weight]
    if head.weight is not embeddings.weight:
        tensors.append(head.weight)
    if head.bias is not None:
        tensors.append(head.bias)
    for tensor in tensors:
        mean = tensor[:num_old][in_mean.to(tensor.device)].float().mean(dim=0).to(tensor.dtype)
        tensor[spare_ids] = mean
        tensor[num_old:] = mean


def check_init(init: str) -> None:
    """Raise a ValueError unless `init` is an `EmbeddingInit`."""
    if init not in ("mean", "codec"):
        raise ValueError(f"embeddings must be 'mean' or 'codec', found {init!r}")


@torch.no_grad()
def init_from_codes(model: PreTrainedModel, vocabulary: Vocabulary, codec: Codec) -> None:
    """Initialize the audio rows of embedding and head from the codec's code vectors.

    The code vectors are projected to the width of the model, and shifted and scaled to the mean and the deviation of
    its other rows.
    """
    tables = code_vectors(codec)
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    weights: list[Tensor] = [embeddings.weight]
    if head.weight is not embeddings.weight:
        weights.append(head.weight)
    for weight in weights:
        is_other = torch.ones(weight.shape[0], dtype=torch.bool, device=weight.device)
        is_other[vocabulary.audio_offset :] = False
        others = weight[is_other].float()
        projected = []
        for k, table in enumerate(tables):
            projected.append(_project(table, weight.shape[1], seed=k))
        rows = torch.cat(projected).to(weight.device)
        rows = others.mean(0) + rows * (others - others.mean(0)).std()
        weight[vocabulary.audio_offset : vocabulary.audio_offset + len(rows)] = rows.to(weight.dtype)


def code_vectors(codec: Codec) -> list[Tensor]:
    """Return what codes stand for inside a codec, in float32 on the CPU: (codebook_size, D) for each of K codebooks."""
    return [table.detach().float().cpu() for table in codec.code_vectors()]


def _project(vectors: Tensor, width: int, seed: int) -> Tensor:
    """Project code vectors (V, D) to (V, H) of mean 0 and deviation 1; angles are kept where H >= D."""
    D = vectors.shape[1]
    noise = torch.randn(max(D, width), min(D, width), generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise).Q  # orthonormal columns
    rows = (vectors - vectors.mean(0)) @ (basis.T if width >= D else basis)
    return rows / rows.std().clamp_min(1e-12)
