"""Protocols that describe a codec: everything that the package needs of FocalCodec or any other codec.

B batch, T samples, N token frames, K codebooks, D feature width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# The results can be read as attributes and as items, like all outputs of transformers.
@dataclass
class CodecEncoderOutput(ModelOutput):
    """Result of `encode`.

    Args:
        audio_codes: (B, K, N) int64 codes, 0 in padding.
        audio_codes_mask: (B, N) bool, True where a frame is real.
        latents: (B, N, bits) vectors whose signs are the bits of the codes; None for codecs that are not binary. They
            have unit length with binary spherical quantization.
    """

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    latents: Tensor | None = None


@dataclass
class CodecDecoderOutput(ModelOutput):
    """Result of `decode`.

    Args:
        audio_values: (B, 1, T) waveforms at the output sampling rate.
        padding_mask: (B, T) bool, True where a sample is real.
    """

    audio_values: Tensor | None = None
    padding_mask: Tensor | None = None


class CodecSpec(Protocol):
    """Rates and sizes of a codec. `FocalCodecConfig` and `codecs.adapter.CodecConfig` provide them."""

    @property
    def sampling_rate(self) -> int:
        """Rate of the input in Hz."""

    @property
    def output_sampling_rate(self) -> int:
        """Rate of decoded audio in Hz."""

    @property
    def samples_per_token(self) -> int:
        """Input samples per frame."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""

    @property
    def num_quantizers(self) -> int:
        """Number of codebooks K, which is the number of codes per frame."""

    @property
    def codebook_size(self) -> int:
        """Number of codes of a codebook, of the largest where they differ."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook."""

    @property
    def frames_per_block(self) -> int:
        """Frames that can only be decoded together: a sequence must not begin inside a block."""


class CodecStream(Protocol):
    """A streaming session of a causal codec: B streams side by side, each with its own state."""

    @property
    def chunk_length(self) -> int:
        """Input samples of one chunk. The length of every call but the last must be a multiple of it."""

    def encode(self, chunk: Tensor) -> Tensor:
        """Encode the next samples (B, T) of every stream to codes (B, K, N)."""

    def decode(self, audio_codes: Tensor) -> Tensor:
        """Decode the next codes (B, K, N) of every stream to audio (B, 1, T)."""


class Codec(Protocol):
    """A codec with its weights. `FocalCodecModel` and `codecs.adapter.CodecAdapter` provide it."""

    @property
    def config(self) -> CodecSpec:
        """Rates and sizes."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def pretrained_model(self) -> "PreTrainedModel":
        """The model of transformers that holds the weights: the codec itself, or what an adapter wraps."""

    @property
    def is_causal(self) -> bool:
        """Whether `stream` gives exactly what encoding and decoding the whole signal gives."""

    @property
    def is_binary(self) -> bool:
        """Whether each bit of a code has a meaning, so that codes that differ in few bits sound similar."""

    @property
    def feature_dim(self) -> int | None:
        """Width D of `extract_features`; None for codecs without continuous features."""

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Return the number of frames that `encode` returns for a number of samples."""

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> CodecEncoderOutput:
        """Encode waveforms (B, T) or (B, 1, T); `padding_mask` (B, T) is True where a sample is real."""

    def decode(
        self,
        audio_codes: Tensor,
        audio_codes_mask: Tensor | None = None,
        num_samples: int | list[int] | Tensor | None = None,
    ) -> CodecDecoderOutput:
        """Decode codes (B, K, N) to waveforms; `num_samples` is the length that each item had when it was encoded."""

    def extract_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the continuous output of the encoder, (B, frames, D). Only where `feature_dim` is set."""

    def stream(self, batch_size: int = 1) -> CodecStream:
        """Start a streaming session. Only where `is_causal`."""

    def code_vectors(self) -> list[Tensor]:
        """Return the vector of every code inside the codec: (codebook_size, D) for each codebook."""

    def save_pretrained(self, folder: str | Path, /) -> Any:
        """Write a folder that `from_pretrained` opens."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""

    def to(self, device: str | torch.device, /) -> Any:
        """Move the weights to a device."""


class NoTextTokenizer:
    """Takes the place of a text tokenizer of a codec in `AutoTokenizer`, to say what to call instead."""

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Raise a ValueError with the call that opens the codec."""
        raise ValueError(
            f"{source} holds a codec, whose tokens are not text: call "
            f"focallm.AudioTokenizer.from_pretrained({str(source)!r})"
        )


def code_usage(tokens: Tensor, codebook_size: int) -> dict[str, float]:
    """Measure how evenly codes are used.

    Args:
        tokens: (N,) codes.
        codebook_size: number of different codes.

    Returns:
        The number of tokens, the number of different codes among them, the same as a share of what uniform use would
        show in as many tokens, and the entropy of the codes, in bits and as a share of its maximum. Without tokens
        the last three are NaN.
    """
    if len(tokens) == 0:
        undefined = dict.fromkeys(("code_share", "entropy_bits", "normalised_entropy"), math.nan)
        return {"tokens": 0.0, "codes_used": 0.0, **undefined}
    counts = torch.bincount(tokens, minlength=codebook_size).double()
    probabilities = counts[counts > 0] / counts.sum()
    # A single code has the entropy -0.0 without the reciprocal.
    entropy = float((probabilities * probabilities.reciprocal().log2()).sum())
    expected = codebook_size * (1 - (1 - 1 / codebook_size) ** len(tokens))
    used = len(probabilities)
    return {
        "tokens": float(len(tokens)),
        "codes_used": float(used),
        "code_share": used / expected,
        "entropy_bits": entropy,
        "normalised_entropy": entropy / math.log2(used) if used > 1 else 0.0,
    }
