"""Streaming with causal models: chunks in, tokens out, and back. B streams side by side, each at its own position."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .state import StreamState

if TYPE_CHECKING:
    from .modeling import FocalCodecModel


class FocalCodecStream:
    """Carries the state of B encoding and B decoding streams from chunk to chunk.

    Fed with multiples of `chunk_length` samples, the tokens equal those of the whole signal, and the audio to 1e-4.
    Only the last chunk of a stream may be shorter: it ends the stream, which then has to be reset. Filled up with zeros
    to a whole chunk, it too equals the whole, filled signal. (A shorter last chunk sees up to one chunk less of the
    past than offline once the window is full.)

    Args:
        model: a causal FocalCodec.
        batch_size: number of streams.

    Raises:
        ValueError: the model is not causal.
    """

    def __init__(self, model: "FocalCodecModel", batch_size: int = 1) -> None:
        if not model.config.causal:
            raise ValueError(
                "this FocalCodec is not causal: its tokens depend on the whole signal, so it cannot be streamed; use a "
                "causal checkpoint (lucadellalib/focalcodec_50hz_4k_causal), or encode the whole signal"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}")
        self.model = model
        self.batch_size = batch_size
        self.encoding = StreamState.new(batch_size, model.device)
        self.decoding = StreamState.new(batch_size, model.device)

    @property
    def chunk_length(self) -> int:
        """Samples (at the input rate) of the chunk that the model was trained with: 1280, 80 ms."""
        return self.model.config.chunk_length

    @torch.no_grad()
    def encode(self, chunk: Tensor) -> Tensor:
        """The next samples (B, T) or (B, 1, T) of every stream -> tokens (B, 1, N), N = ceil(T / 320).

        Raises:
            ValueError: another number of streams, one of them ended, or a malformed or non-finite chunk.
        """
        waveform, _ = self.model._check_input(chunk, None)
        self._advance(self.encoding, waveform, self.chunk_length, "samples")
        features = self.model.encoder(waveform, None, self.encoding)
        latents = self.model.compressor(features, None, self.encoding)
        return self.model.quantizer.codes_to_tokens(latents)[:, None]

    @torch.no_grad()
    def decode(self, audio_codes: Tensor) -> Tensor:
        """The next tokens (B, 1, N) or (B, N) of every stream, whole chunks but for the last -> audio (B, 1, T')."""
        tokens, _ = self.model._check_tokens(audio_codes, None)
        self._advance(self.decoding, tokens, self.chunk_length // self.model.config.samples_per_token, "tokens")
        codes = self.model.quantizer.tokens_to_codes(tokens, self.model.dtype)
        features = self.model.decompressor(codes, None, self.decoding)
        return self.model.decoder(features, None, self.decoding)[:, None]

    def reset(self, items: Tensor | list[bool] | list[int] | None = None) -> None:
        """Begin again: all streams, those that B booleans mark, or those with the listed indices.

        Raises:
            ValueError: another number of booleans, or an index that is no stream's.
        """
        marked = None if items is None else torch.as_tensor(items)
        if marked is not None and marked.dtype != torch.bool:
            indices = marked.long()
            if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.batch_size:
                raise ValueError(f"streams have the indices 0 ... {self.batch_size - 1}, found {indices.tolist()}")
            marked = torch.zeros(self.batch_size, dtype=torch.bool).index_fill(0, indices, True)
        if marked is not None and marked.shape != (self.batch_size,):
            raise ValueError(f"this session holds {self.batch_size} streams, found {tuple(marked.shape)} booleans")
        self.encoding.reset(marked)
        self.decoding.reset(marked)

    def _advance(self, state: StreamState, x: Tensor, whole: int, unit: str) -> None:
        """Check the next chunk x (B, size), and note whether it ends the streams."""
        if x.shape[0] != self.batch_size:
            raise ValueError(f"this session holds {self.batch_size} streams, found a batch of {x.shape[0]}")
        if bool(state.ended.any()):
            raise ValueError(
                f"stream {int(state.ended.nonzero()[0])} has ended: its last chunk was not a multiple of {whole} "
                f"{unit}, and what follows such a chunk would not equal the whole signal. Feed multiples, or "
                "reset() before the next signal"
            )
        state.ended = state.ended | (x.shape[1] % whole != 0)
