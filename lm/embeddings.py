"""Where the rows of audio ids start. V audio ids, K codebooks, D width of a code vector, H of an embedding."""

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..tokenizer import AudioTokenizer
from ..tokenizer.focalcodec import FocalCodecModel
from .vocabulary import Vocabulary

Start = Literal["mean", "codec"]


def check_start(start: str) -> None:
    """Raises a ValueError if there is no such way to start."""
    if start not in ("mean", "codec"):
        raise ValueError(f"embeddings must be 'mean' or 'codec', found {start!r}")


@torch.no_grad()
def start_at_codes(model: PreTrainedModel, vocabulary: Vocabulary, audio_tokenizer: AudioTokenizer) -> None:
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
    codec = audio_tokenizer.codec
    tables = [codec.quantizer.codebook] if isinstance(codec, FocalCodecModel) else codec.code_vectors()
    return [table.detach().float().cpu() for table in tables]


def _project(vectors: Tensor, width: int, seed: int) -> Tensor:
    """(V, D) -> (V, H) of mean 0 and deviation 1; angles are kept where H >= D."""
    D = vectors.shape[1]
    noise = torch.randn(max(D, width), min(D, width), generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise).Q  # orthonormal columns
    rows = (vectors - vectors.mean(0)) @ (basis.T if width >= D else basis)
    return rows / rows.std().clamp_min(1e-12)
