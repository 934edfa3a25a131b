"""Where the rows of audio ids start. V audio ids, K codebooks, D width of a code vector, H of an embedding."""

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from ..tokenizer import AudioTokenizer
from .features import RESTARTS, SpeechLMForConditionalGeneration
from .vocabulary import Vocabulary

EmbeddingInit = Literal["mean", "codec"]


def new_ids(vocabulary: Vocabulary) -> list[int]:
    """The control and audio ids: the rows that a text LM does not bring."""
    return sorted({*vocabulary.controls.values(), *vocabulary.audio_range})


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


def check_init(init: str) -> None:
    """Raises a ValueError if there is no such way to start."""
    if init not in ("mean", "codec"):
        raise ValueError(f"embeddings must be 'mean' or 'codec', found {init!r}")


@torch.no_grad()
def init_from_codes(model: PreTrainedModel, vocabulary: Vocabulary, audio_tokenizer: AudioTokenizer) -> None:
    """Give the audio rows of a model, of embedding and head, the geometry of the codec's code vectors.

    They spread around the mean of the other rows as these do, so that the model sees what it is used to.
    """
    vectors = code_vectors(audio_tokenizer)
    both: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights: dict[int, Tensor] = {id(module.weight): module.weight for module in both}  # one if they are tied
    for weight in weights.values():
        others = torch.ones(weight.shape[0], dtype=torch.bool, device=weight.device)
        others[vocabulary.audio_offset :] = False
        known = weight[others].float()
        rows = torch.cat([_project(v, weight.shape[1], k) for k, v in enumerate(vectors)]).to(weight.device)
        rows = known.mean(0) + rows * (known - known.mean(0)).std()
        weight[vocabulary.audio_offset : vocabulary.audio_offset + len(rows)] = rows.to(weight.dtype)


def code_vectors(audio_tokenizer: AudioTokenizer) -> list[Tensor]:
    """What each code stands for inside the codec: (codebook_size, D) for each of K codebooks."""
    return [table.detach().float().cpu() for table in audio_tokenizer.codec.code_vectors()]


def _project(vectors: Tensor, width: int, seed: int) -> Tensor:
    """(V, D) -> (V, H) of mean 0 and deviation 1; angles are kept where H >= D."""
    D = vectors.shape[1]
    noise = torch.randn(max(D, width), min(D, width), generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise).Q  # orthonormal columns
    rows = (vectors - vectors.mean(0)) @ (basis.T if width >= D else basis)
    return rows / rows.std().clamp_min(1e-12)
