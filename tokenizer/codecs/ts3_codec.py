"""TS3-Codec (Wu et al., 2024, arXiv 2411.18803): a causal codec of transformers and linear layers.

B batch, T samples, N frames, D width, H heads.

THERE ARE NO PUBLIC WEIGHTS: the authors published neither code nor checkpoints. This is the architecture with random
weights, for experiments on size, speed and streaming. The sizes follow from the paper and from its number of
parameters. Choices made here: rotary positions, norms before the layers, GELU, a window of 32 frames with the current
one, and the hidden width of the outer layers.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.layers import StreamState
from .adapter import CodecAdapter, CodecConfig, register_model
from .official import load_native
from .window_attention import rotate, window_attention

_FRAMES = 256  # compared with the codebook at a time


class TS3CodecConfig(PreTrainedConfig):
    """Configuration of a TS3-Codec; the defaults have the numbers of the variant X2: 0.85 kbit/s, 204 M parameters.

    Args:
        sampling_rate: in Hz.
        frame_size: samples per frame, one token each.
        frame_hidden: width between the two linear layers of the outer ends.
        dim: width of the transformers.
        num_layers: of the encoder, and of the decoder.
        num_heads: of each layer.
        ffn_dim: hidden width of the feed-forward layers.
        window: frames that attention sees, the current one included.
        codebook_size, codebook_dim: number and width of the code vectors.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`, or heads of odd width.
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
            raise ValueError(f"dim ({self.dim}) must be a multiple of 2 num_heads ({self.num_heads}): heads turn pairs")
        super().__post_init__(**kwargs)


class TS3CodecModel(PreTrainedModel):
    """Frames -> linear layers -> transformer -> a code -> transformer -> linear layers -> frames, all causal."""

    config_class = TS3CodecConfig
    main_input_name = "waveform"
    base_model_prefix = ""

    def __init__(self, config: TS3CodecConfig) -> None:
        super().__init__(config)
        c = config
        self.frame_in = nn.Sequential(
            nn.Linear(c.frame_size, c.frame_hidden), nn.GELU(), nn.Linear(c.frame_hidden, c.dim)
        )
        self.encoder = CausalTransformer(config)
        self.quantizer = FactorizedQuantizer(c.dim, c.codebook_size, c.codebook_dim)
        self.decoder = CausalTransformer(config)
        self.frame_out = nn.Sequential(
            nn.Linear(c.dim, c.frame_hidden), nn.GELU(), nn.Linear(c.frame_hidden, c.frame_size)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: constructors do it, and loading is strict, so that no weight is left to be drawn."""

    def encode(self, waveform: Tensor, state: StreamState | None = None) -> Tensor:
        """(B, 1, T) -> codes (B, 1, N) int64, N = ceil(T / frame_size); zeros fill the last frame.

        A state carries the past of a stream; see `stream`.
        """
        size = self.config.frame_size
        frames = F.pad(waveform.flatten(1), (0, -waveform.shape[-1] % size)).unflatten(1, (-1, size))
        return self.quantizer.to_codes(self.encoder(self.frame_in(frames), state))[:, None]

    def decode(self, codes: Tensor, state: StreamState | None = None) -> Tensor:
        """Codes (B, 1, N) -> (B, 1, N * frame_size)"""
        frames = self.frame_out(self.decoder(self.quantizer.to_vectors(codes[:, 0]), state))
        return frames.flatten(1)[:, None]

    def stream(self, batch_size: int = 1) -> "TS3CodecStream":
        """Encode and decode in chunks."""
        return TS3CodecStream(self, batch_size)


class TS3CodecStream:
    """B streams in step: chunks of whole frames in, codes out, and back; what the whole signal gives, 20 ms late.

    Only the last chunk may hold an incomplete frame, which zeros fill up.
    """

    def __init__(self, model: TS3CodecModel, batch_size: int = 1) -> None:
        self.model = model
        self.encoding = StreamState.new(batch_size, model.device)
        self.decoding = StreamState.new(batch_size, model.device)

    @torch.no_grad()
    def encode(self, chunk: Tensor) -> Tensor:
        """The next samples (B, 1, T) -> codes (B, 1, N)

        Raises:
            ValueError: another number of streams, or a chunk after an incomplete frame.
        """
        size = self.model.config.frame_size
        self._check(self.encoding, chunk)
        codes = self.model.encode(chunk, self.encoding)
        self.encoding.position = self.encoding.position + codes.shape[2]
        if chunk.shape[2] % size:
            self.encoding.ended = torch.ones_like(self.encoding.ended)
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The next codes (B, 1, N) -> audio (B, 1, N * frame_size)

        Raises:
            ValueError: another number of streams.
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
                f"the last chunk held an incomplete frame, which ended the stream: feed multiples of "
                f"{self.model.config.frame_size} samples, and begin a new stream after the end"
            )


class CausalTransformer(nn.Module):
    """Pre-norm layers and a last norm: (B, N, D) -> (B, N, D)."""

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
        self.heads, self.window = config.num_heads, config.window
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
        q, k, v = (part.transpose(1, 2) for part in self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2))
        size = q.shape[-1]
        inv_freq = 10000.0 ** (-torch.arange(0, size, 2, device=x.device) / size)
        start = 0 if state is None else int(state.position[0])  # the streams go in step
        q, k = rotate(q, inv_freq, start), rotate(k, inv_freq, start)
        if state is not None:
            if self in state.key_values:
                k, v = (torch.cat(pair, dim=2) for pair in zip(state.key_values[self], (k, v), strict=True))
            first = max(0, k.shape[2] - (self.window - 1))
            state.key_values[self] = k[:, :, first:], v[:, :, first:]
        return self.out(window_attention(q, k, v, self.window - 1, 0).transpose(1, 2).flatten(2))


class FactorizedQuantizer(nn.Module):
    """Nearest code by direction in a narrow space (Yu et al., 2022, arXiv 2110.04627, section 3.2)."""

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, codebook_dim)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, dim)

    def to_codes(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N) int64"""
        directions = F.normalize(self.codebook.weight, dim=-1)  # the length of x changes no order
        codes = [(part @ directions.T).argmax(-1) for part in self.project_in(x).split(_FRAMES, dim=1)]
        return torch.cat(codes, dim=1)

    def to_vectors(self, codes: Tensor) -> Tensor:
        """(B, N) -> (B, N, D)"""
        return self.project_out(self.codebook(codes))


register_model(TS3CodecModel)


class TS3Codec(CodecAdapter):
    """One codebook. There are no public weights: see the module."""

    model_class = TS3CodecModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "TS3Codec":
        """Load weights of one's own, a folder that `save_pretrained` wrote; kwargs as in transformers.

        Raises:
            OSError: nothing there; the authors published no weights.
            ValueError: damaged weights, or a key that is missing, left over or of another shape.
        """
        try:
            model = load_native(cls.model_class, source, None, kwargs)
        except OSError as error:
            raise OSError(
                f"{source} holds no TS3-Codec. Its authors published neither code nor weights, so there is no official "
                "hub id: build one with random weights, TS3Codec(TS3CodecModel(TS3CodecConfig())), or name a folder "
                "that its save_pretrained wrote"
            ) from error
        return cls(model, num_codebooks)

    def code_vectors(self) -> list[Tensor]:
        """[(codebook_size, codebook_dim)]"""
        return [self.model.quantizer.codebook.weight.detach().float()]

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return 1, 1

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.frame_size, config.codebook_size, num_codebooks)
