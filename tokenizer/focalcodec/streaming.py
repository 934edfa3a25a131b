"""Streaming sessions of causal models. B streams side by side, T samples, N token frames."""

from typing import Any, Protocol

import torch
from torch import Tensor

from .inputs import check_tokens, check_waveforms
from .layers import StreamState


class _CausalModel(Protocol):
    """The parts of `FocalCodecModel` that a session uses."""

    config: Any  # a FocalCodecConfig
    encoder: Any
    compressor: Any
    quantizer: Any
    decompressor: Any
    decoder: Any

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


class FocalCodecStream:
    """Encodes and decodes B streams chunk by chunk.

    If chunks are multiples of `chunk_length` samples, the tokens equal those of the whole signal, and the audio does so
    to 1e-4. Only the last chunk of a stream may have another length: it ends the stream, which must then be reset. Once
    the attention window is full, such a chunk sees up to one chunk less of the past than offline. To avoid this, pad it
    with zeros to a whole chunk: the result then equals that of the padded signal.

    Args:
        model: a causal FocalCodec.
        batch_size: number of streams B.

    Raises:
        ValueError: The model is not causal.
    """

    def __init__(self, model: _CausalModel, batch_size: int = 1) -> None:
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
        """Input samples of the chunk that the model was trained with: 1280, which is 80 ms."""
        return self.model.config.chunk_length

    @torch.no_grad()
    def encode(self, chunk: Tensor) -> Tensor:
        """Encode the next samples of every stream.

        Args:
            chunk: (B, T) or (B, 1, T) at the input rate.

        Returns:
            Tokens (B, 1, N) with N = ceil(T / 320) at 50 Hz.

        Raises:
            ValueError: The chunk is malformed or non-finite, the number of streams is another one, or one has ended.
        """
        waveform, _ = check_waveforms(chunk, None, self.model.dtype)
        self._check_chunk(self.encoding, waveform, self.chunk_length, "samples")
        features = self.model.encoder(waveform, None, self.encoding)
        # Tokens are the signs of the latents, so these need not be normalized.
        latents = self.model.compressor(features, None, self.encoding)
        return self.model.quantizer.codes_to_tokens(latents)[:, None]

    @torch.no_grad()
    def decode(self, audio_codes: Tensor) -> Tensor:
        """Decode the next tokens of every stream.

        Args:
            audio_codes: (B, 1, N) or (B, N). Every call but the last needs whole chunks.

        Returns:
            Audio (B, 1, T) at the output rate.

        Raises:
            ValueError: A token is outside the codebook, the number of streams is another one, or one has ended.
        """
        config = self.model.config
        tokens, _ = check_tokens(audio_codes, None, config.codebook_size)
        self._check_chunk(self.decoding, tokens, self.chunk_length // config.samples_per_token, "tokens")
        codes = self.model.quantizer.tokens_to_codes(tokens, self.model.dtype)
        features = self.model.decompressor(codes, None, self.decoding)
        return self.model.decoder(features, None, self.decoding)[:, None]

    def reset(self, items: Tensor | list[bool] | list[int] | None = None) -> None:
        """Restart streams.

        Args:
            items: B booleans, or the indices of the streams; by default all streams.

        Raises:
            ValueError: The number of booleans is not B, or an index is out of range.
        """
        marked = None if items is None else torch.as_tensor(items)
        # Convert indices to booleans.
        if marked is not None and marked.dtype != torch.bool:
            indices = marked.long()
            if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.batch_size:
                raise ValueError(f"streams have the indices 0 ... {self.batch_size - 1}, found {indices.tolist()}")
            marked = torch.zeros(self.batch_size, dtype=torch.bool).index_fill(0, indices, True)
        if marked is not None and marked.shape != (self.batch_size,):
            raise ValueError(f"this session holds {self.batch_size} streams, found {tuple(marked.shape)} booleans")
        self.encoding.reset(marked)
        self.decoding.reset(marked)

    def _check_chunk(self, state: StreamState, chunk: Tensor, chunk_size: int, unit: str) -> None:
        """Check the next chunk (B, size), and end the streams if it is not a multiple of `chunk_size`."""
        if chunk.shape[0] != self.batch_size:
            raise ValueError(f"this session holds {self.batch_size} streams, found a batch of {chunk.shape[0]}")
        if bool(state.ended.any()):
            raise ValueError(
                f"stream {int(state.ended.nonzero()[0])} has ended: its last chunk was not a multiple of {chunk_size} "
                f"{unit}, and what follows such a chunk would not equal the whole signal. Feed multiples, or "
                "reset() before the next signal"
            )
        # Samples after an incomplete chunk would not be aligned with the chunks of the whole signal.
        state.ended = state.ended | (chunk.shape[1] % chunk_size != 0)
