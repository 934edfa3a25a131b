"""TS3-Codec (Wu et al., 2024, arXiv 2411.18803): a causal codec of transformers and linear layers.

There are no public weights: the authors published neither code nor checkpoints. This is the architecture with random
weights, for experiments on size, speed and streaming. The sizes follow from the paper and its number of parameters. The
paper does not state the positions (rotary here), the place of the norms (before the layers), the activation (GELU), the
window (32 frames with the current one) and the hidden width of the outer layers.

B batch, T samples, N frames, D feature width, H heads, C channels of a head.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..focalcodec.layers import StreamState
from .adapter import CodecAdapter, CodecConfig, NativeModel, register_model
from .checkpoint import load_native
from .layers import rotate, window_attention

_FRAMES_PER_SEARCH = 256  # compared with the codebook at a time, to bound the memory


@strict
class TS3CodecConfig(PreTrainedConfig):
    """Configuration of a TS3-Codec; the defaults are the paper's variant X2: 0.85 kbit/s, 204 M parameters.

    Args:
        sampling_rate: in Hz.
        frame_size: samples per frame; each frame is one token.
        frame_hidden: width between the two linear layers at either end.
        dim: D, width of the transformers.
        num_layers: of the encoder, and of the decoder.
        num_heads: H of each layer.
        ffn_dim: hidden width of the feed-forward layers.
        window: frames that attention sees, the current one included.
        codebook_size: number of codes.
        codebook_dim: width of the vector of a code.

    Raises:
        ValueError: `dim` is not a multiple of 2 `num_heads`.
    """

    model_type = "focallm_ts3_codec"

    sampling_rate: int = 16000
    frame_size: int = 320
    frame_hidden: int = 320
    dim: int = 1024
    num_layers: int = 8
    num_heads: int = 16
    ffn_dim: int = 4096
    window: int = 32
    codebook_size: int = 131072
    codebook_dim: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim ({self.dim}) must be a multiple of 2 num_heads ({self.num_heads})")
        super().__post_init__(**kwargs)


class TS3CodecModel(NativeModel):
    """Frames -> linear layers -> transformer -> a code -> transformer -> linear layers -> frames, all causal."""

    config_class = TS3CodecConfig

    def __init__(self, config: TS3CodecConfig) -> None:
        super().__init__(config)
        self.frame_in = nn.Sequential(
            nn.Linear(config.frame_size, config.frame_hidden),
            nn.GELU(),
            nn.Linear(config.frame_hidden, config.dim),
        )
        self.encoder = CausalTransformer(config)
        self.quantizer = FactorizedQuantizer(config.dim, config.codebook_size, config.codebook_dim)
        self.decoder = CausalTransformer(config)
        self.frame_out = nn.Sequential(
            nn.Linear(config.dim, config.frame_hidden),
            nn.GELU(),
            nn.Linear(config.frame_hidden, config.frame_size),
        )
        self.post_init()

    def encode(self, waveform: Tensor, state: StreamState | None = None) -> Tensor:
        """(B, 1, T) -> codes (B, 1, N) int64, N = ceil(T / frame_size); zeros fill up the last frame.

        A state holds the past of a stream; see `stream`.
        """
        size = self.config.frame_size
        padded = F.pad(waveform.flatten(1), (0, -waveform.shape[-1] % size))
        frames = padded.unflatten(1, (-1, size))
        return self.quantizer.to_codes(self.encoder(self.frame_in(frames), state))[:, None]

    def decode(self, codes: Tensor, state: StreamState | None = None) -> Tensor:
        """Codes (B, 1, N) -> (B, 1, N * frame_size)"""
        frames = self.frame_out(self.decoder(self.quantizer.to_vectors(codes[:, 0]), state))
        return frames.flatten(1)[:, None]

    def stream(self, batch_size: int = 1) -> "TS3CodecStream":
        """Start to encode and decode B streams in chunks."""
        return TS3CodecStream(self, batch_size)


class TS3CodecStream:
    """Encode and decode B streams of the same length in chunks, with the same result as in one pass.

    Chunks consist of whole frames. Only the last one may end with an incomplete frame, which zeros fill up.
    """

    def __init__(self, model: TS3CodecModel, batch_size: int = 1) -> None:
        self.model = model
        self.encoding = StreamState.new(batch_size, model.device)
        self.decoding = StreamState.new(batch_size, model.device)

    @torch.no_grad()
    def encode(self, chunk: Tensor) -> Tensor:
        """Encode the next samples (B, 1, T) to codes (B, 1, N).

        Raises:
            ValueError: Another number of streams, or a chunk after an incomplete frame.
        """
        self._check(self.encoding, chunk)
        codes = self.model.encode(chunk, self.encoding)
        self.encoding.position = self.encoding.position + codes.shape[2]
        if chunk.shape[2] % self.model.config.frame_size:
            self.encoding.ended = torch.ones_like(self.encoding.ended)
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode the next codes (B, 1, N) to audio (B, 1, N * frame_size).

        Raises:
            ValueError: Another number of streams.
        """
        self._check(self.decoding, codes)
        waveform = self.model.decode(codes, self.decoding)
        self.decoding.position = self.decoding.position + codes.shape[2]
        return waveform

    def _check(self, state: StreamState, chunk: Tensor) -> None:
        if chunk.ndim != 3 or chunk.shape[:2] != (state.batch_size, 1) or chunk.shape[2] == 0:
            raise ValueError(f"a chunk must be ({state.batch_size}, 1, at least 1), found {tuple(chunk.shape)}")
        if bool(state.ended.any()):
            raise ValueError(
                "the last chunk held an incomplete frame, which ended the stream: pass multiples of "
                f"{self.model.config.frame_size} samples, and start a new stream after the end"
            )


class CausalTransformer(nn.Module):
    """Pre-norm layers and a final norm, (B, N, D) -> (B, N, D)."""

    def __init__(self, config: TS3CodecConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TransformerLayer(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        for layer in self.layers:
            x = layer(x, state)
        return self.norm(x)


class TransformerLayer(nn.Module):
    """Attention to the last `window` frames, and a feed-forward layer."""

    def __init__(self, config: TS3CodecConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.window = config.window
        self.attention_norm = nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(), nn.Linear(config.ffn_dim, config.dim)
        )

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        x = x + self._attend(self.attention_norm(x), state)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def _attend(self, x: Tensor, state: StreamState | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # (B, H, N, C) each
        size = q.shape[-1]
        inv_freq = 10000.0 ** (-torch.arange(0, size, 2, device=x.device) / size)
        start = 0 if state is None else int(state.position[0])  # all streams have the same length
        q = rotate(q, inv_freq, start)
        k = rotate(k, inv_freq, start)
        if state is not None:
            if self in state.key_values:
                past_k, past_v = state.key_values[self]
                k = torch.cat([past_k, k], dim=2)
                v = torch.cat([past_v, v], dim=2)
            # Keep only what the next frame will see.
            first = max(0, k.shape[2] - (self.window - 1))
            state.key_values[self] = (k[:, :, first:], v[:, :, first:])
        return self.out(window_attention(q, k, v, self.window - 1, 0).transpose(1, 2).flatten(2))


class FactorizedQuantizer(nn.Module):
    """Nearest code by cosine similarity in few dimensions (Yu et al., 2022, arXiv 2110.04627, section 3.2)."""

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, codebook_dim)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, dim)

    def to_codes(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N) int64"""
        # x need not be normalized: its length does not change which code is the nearest.
        directions = F.normalize(self.codebook.weight, dim=-1)
        pieces = self.project_in(x).split(_FRAMES_PER_SEARCH, dim=1)
        codes = [(piece @ directions.T).argmax(-1) for piece in pieces]
        return torch.cat(codes, dim=1)

    def to_vectors(self, codes: Tensor) -> Tensor:
        """(B, N) -> (B, N, D)"""
        return self.project_out(self.codebook(codes))


register_model(TS3CodecModel)


class TS3Codec(CodecAdapter):
    """TS3-Codec with the methods of `FocalCodecModel`. There are no public weights; see the module."""

    model_class = TS3CodecModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "TS3Codec":
        """Load a folder that `save_pretrained` wrote; kwargs are options of transformers.

        Raises:
            OSError: There is no such folder. The authors published no weights.
            ValueError: Damaged weights, or a key that is missing, left over or of another shape.
        """
        try:
            model = load_native(TS3CodecModel, source, None, kwargs)
        except OSError as error:
            raise OSError(
                f"{source} holds no TS3-Codec. Its authors published neither code nor weights, so there is no official "
                "hub id: build one with random weights, TS3Codec(TS3CodecModel(TS3CodecConfig())), or name a folder "
                "that its save_pretrained wrote"
            ) from error
        return cls(model, num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """Return [(codebook_size, codebook_dim)]."""
        return [self.model.quantizer.codebook.weight.detach().float()]

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.frame_size, config.codebook_size, num_codebooks)
