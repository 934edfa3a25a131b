"""FocalCodec (Della Libera et al., 2025, arXiv 2502.04465): 16 kHz speech <-> one stream of tokens.

B batch, T samples, N tokens, K bits per token, D feature width; everything channels-last between the parts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput

from ..codec import CodecDecoderOutput, CodecEncoderOutput
from . import checkpoint as loading
from .activations import Snake
from .configuration import FocalCodecConfig
from .focal import DynamicTanh, FocalBlock
from .hifigan import HiFiGAN
from .knn import nearest
from .masks import length_mask, mask_lengths
from .mel import MelEncoder
from .parts import HiFiGANConfig, MelConfig, VocosConfig, WaveNeXtConfig
from .quantizer import QUANTIZERS
from .reference_api import StageMethods
from .stack import Compressor, Decompressor
from .state import StreamState
from .streaming import FocalCodecStream
from .vocos import ConvNeXtBlock, Vocos
from .wavenext import WaveNeXt
from .wavlm import GatedAttention, WavLMEncoder

DECODERS: dict[type, Callable[..., nn.Module]] = {VocosConfig: Vocos, WaveNeXtConfig: WaveNeXt, HiFiGANConfig: HiFiGAN}
# A latent nearer to zero than this share of the vector's length may change sign with the shape of the batch (float32
# noise is below 1e-5).
_NEAR_ZERO = 2e-5


@dataclass
class FocalCodecOutput(ModelOutput):
    """Result of `forward`: the tokens, and the audio decoded from them at the input's length."""

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    audio_values: Tensor | None = None


class FocalCodecModel(StageMethods, PreTrainedAudioTokenizerBase):
    """Encoder -> compressor -> quantiser -> decompressor -> decoder.

    Tokens are a function of an item's own samples: padding in a batch changes none of them.
    """

    config_class = FocalCodecConfig
    main_input_name = "input_values"
    base_model_prefix = ""

    def __init__(self, config: FocalCodecConfig) -> None:
        super().__init__(config)
        encoder, decoder = config.encoder_config, config.decoder_config
        self.encoder = MelEncoder(encoder) if isinstance(encoder, MelConfig) else WavLMEncoder(encoder)
        self.compressor = Compressor(config.compressor_config)
        self.quantizer = QUANTIZERS[config.quantizer_config.type](config.quantizer_config)
        self.decompressor = Decompressor(config.decompressor_config)
        self.decoder = DECODERS[type(decoder)](decoder)
        self.post_init()

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> "FocalCodecModel":  # type: ignore[override]
        """Load a folder or hub id, in our layout or in the official one; strictly, from safetensors, in float32.

        Args:
            source: folder, hub id, or a config `.json` with its `.safetensors` beside it (official layout).
            kwargs: as in transformers; `dtype` is float32 unless given, because tokens are the signs of small numbers.

        Raises:
            OSError: no such folder, or no safetensors weights in it.
            ValueError: a key of the checkpoint is missing, left over or of another shape.
        """
        kwargs.setdefault("dtype", torch.float32)
        official = loading.find_official(source, kwargs)
        return loading.load_strictly(super().from_pretrained, source, args, kwargs, official)

    @property
    def pretrained_model(self) -> "FocalCodecModel":
        """The model of transformers that holds the weights: this one."""
        return self

    @property
    def is_causal(self) -> bool:
        """Whether `stream` gives exactly what encoding and decoding the whole signal gives."""
        return self.config.causal

    @property
    def is_binary(self) -> bool:
        """Whether the bits of a code mean something: a token is the signs of its latent."""
        return True

    @property
    def feature_dim(self) -> int:
        """Width D of `extract_features`."""
        return self.config.encoder_config.dim

    def code_vectors(self) -> list[Tensor]:
        """Return the vector of every code of the only codebook, (codebook_size, K)."""
        return [self.quantizer.codebook]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d | nn.Embedding):
            init.trunc_normal_(module.weight, std=0.02)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Snake):
            init.ones_(module.alpha)
        elif isinstance(module, GatedAttention):
            init.ones_(module.gru_rel_pos_const)
        elif isinstance(module, DynamicTanh):
            init.constant_(module.alpha, module.init)
        elif isinstance(module, ConvNeXtBlock):
            init.constant_(module.gamma, module.layerscale_init)
        elif isinstance(module, FocalBlock):
            for gamma in (module.modulation_gamma, module.feed_forward_gamma):
                if gamma is not None:
                    init.constant_(gamma, module.layerscale_init)

    @torch.no_grad()
    def extract_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Continuous encoder output (B, frames, D) at 50 Hz; frames of padding are zero.

        Args:
            input_values: (B, T) or (B, 1, T) at `config.sampling_rate`.
            padding_mask: (B, T) bool, True where a sample is real; padding stands at the end.
        """
        waveform, lengths = self._check_input(input_values, padding_mask)
        return self.encoder(waveform, lengths, self._new_state(waveform))

    @torch.no_grad()
    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> CodecEncoderOutput:
        """Waveforms to tokens; arguments as in `extract_features`.

        An item of a batch with a latent so near to zero that rounding could decide its sign is encoded again alone, so
        that its tokens are those of a single call.

        Raises:
            ValueError: empty, non-finite or wrongly shaped input.
        """
        waveform, lengths = self._check_input(input_values, padding_mask)
        latents, mask = self._encode_latents(waveform, lengths)
        if waveform.shape[0] > 1:
            uncertain = (latents.abs().amin(-1) < _NEAR_ZERO * latents.norm(dim=-1)) & mask
            for item in uncertain.any(dim=1).nonzero()[:, 0].tolist():
                samples = waveform.shape[1] if lengths is None else int(lengths[item])
                single, _ = self._encode_latents(waveform[item : item + 1, :samples], None)
                latents[item, : single.shape[1]] = single[0]
        tokens = self.quantizer.codes_to_tokens(latents).masked_fill(~mask, 0)
        return CodecEncoderOutput(tokens[:, None], mask, latents)

    @torch.no_grad()
    def decode(
        self,
        audio_codes: Tensor,
        audio_codes_mask: Tensor | None = None,
        num_samples: int | list[int] | Tensor | None = None,
        matching_set: Tensor | list[Tensor] | None = None,
        topk: int = 4,
    ) -> CodecDecoderOutput:
        """Tokens to waveforms at `config.output_sampling_rate`.

        Args:
            audio_codes: (B, 1, N) or (B, N) int64.
            audio_codes_mask: (B, N) bool, True where a token is real; padding stands at the end.
            num_samples: length that each item had when it was encoded, in samples at `config.sampling_rate`. The output
                then lasts exactly as long: it is cut, or its last sample is repeated. Without it an item gives all the
                samples of its tokens.
            matching_set: (P, D) features of another speaker (`extract_features(reference)[0]`), or one such per item:
                each decompressed frame is replaced by the mean of its `topk` nearest rows (voice conversion).

        Raises:
            ValueError: a token outside the codebook, or wrongly shaped input.
        """
        tokens, lengths = self._check_tokens(audio_codes, audio_codes_mask)
        codes = self.quantizer.tokens_to_codes(tokens, self.dtype)
        state = self._new_state(tokens)
        features = self.decompressor(codes, lengths, state)
        if matching_set is not None:
            sets = [matching_set] * len(features) if isinstance(matching_set, Tensor) else matching_set
            if len(sets) != len(features):
                raise ValueError(f"matching_set needs one entry per item, found {len(sets)} for {len(features)} items")
            converted = [nearest(f[None], s, topk).mean(dim=2) for f, s in zip(features, sets, strict=True)]
            features = torch.cat(converted).to(features.dtype)
        factor = math.prod(self.config.decompressor_config.factors)
        frames = None if lengths is None else lengths * factor
        waveform = self.decoder(features, frames, state)
        per_token = factor * self.config.decoder_config.hop_length
        sizes = torch.full((tokens.shape[0],), tokens.shape[1], device=tokens.device) if lengths is None else lengths
        sizes = sizes * per_token
        if num_samples is not None:
            waveform, sizes = self._fit(waveform, sizes, num_samples)
        mask = length_mask(sizes, waveform.shape[1])
        return CodecDecoderOutput(waveform.masked_fill(~mask, 0)[:, None], mask)

    def forward(self, input_values: Tensor, padding_mask: Tensor | None = None) -> FocalCodecOutput:
        """Encode and decode; audio_values (B, 1, T) lasts as long as the longest item, each item as long as it was."""
        waveform, lengths = self._check_input(input_values, padding_mask)
        encoded = self.encode(input_values, padding_mask)
        assert encoded.audio_codes is not None
        sizes = waveform.shape[1] if lengths is None else lengths
        decoded = self.decode(encoded.audio_codes, encoded.audio_codes_mask, sizes)
        return FocalCodecOutput(encoded.audio_codes, encoded.audio_codes_mask, decoded.audio_values)

    def stream(self, batch_size: int = 1) -> FocalCodecStream:
        """A streaming session of a causal model: `stream.encode(chunk)`, `stream.decode(codes)`, `stream.reset()`.

        Raises:
            ValueError: the model is not causal.
        """
        return FocalCodecStream(self, batch_size)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Number of tokens for a number of samples."""
        return self.compressor.num_frames(self.encoder.num_frames(torch.as_tensor(num_samples)))

    def _encode_latents(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T) -> normalised latents (B, N, K) and their mask (B, N)"""
        state = self._new_state(waveform)
        features = self.encoder(waveform, lengths, state)
        frames = None if lengths is None else self.encoder.num_frames(lengths)
        latents = self.quantizer.normalize(self.compressor(features, frames, state))
        B, N, _ = latents.shape
        sizes = torch.full((B,), N, device=latents.device) if lengths is None else self.num_tokens(lengths)
        return latents, length_mask(sizes, N)

    def _new_state(self, like: Tensor) -> StreamState | None:
        return StreamState.new(like.shape[0], like.device) if self.config.causal else None

    def _check_input(self, input_values: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """-> waveform (B, T) without padding that all items share, lengths (B,) or None where none is padded"""
        if input_values.ndim == 3 and input_values.shape[1] == 1:
            input_values = input_values[:, 0]
        if input_values.ndim != 2 or 0 in input_values.shape:
            raise ValueError(
                f"input_values must be (B, T) or (B, 1, T) with at least one sample, found "
                f"{tuple(input_values.shape)}; add the batch axis, and average channels before encoding"
            )
        if not input_values.is_floating_point():
            raise ValueError(
                f"input_values must be floats in [-1, 1], found {input_values.dtype}: divide "
                "integer PCM by its full scale"
            )
        lengths = None
        if padding_mask is not None:
            lengths = mask_lengths(padding_mask, input_values.shape, "padding_mask", "input_values")
            input_values = input_values[:, : int(lengths.max())]
            input_values = input_values.masked_fill(~length_mask(lengths, input_values.shape[1]), 0)
            lengths = None if bool((lengths == input_values.shape[1]).all()) else lengths
        if not torch.isfinite(input_values).all():
            raise ValueError("input_values holds NaN or infinite samples: repair or drop them before encoding")
        return input_values.to(self.dtype), lengths

    def _check_tokens(self, audio_codes: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """-> tokens (B, N) without padding that all items share, lengths (B,) or None where none is padded"""
        tokens = audio_codes[:, 0] if audio_codes.ndim == 3 and audio_codes.shape[1] == 1 else audio_codes
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(
                f"audio_codes must be (B, 1, N) or (B, N) with at least one token, found {tuple(audio_codes.shape)}"
            )
        if tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(f"audio_codes must be integers, found {tokens.dtype}")
        lengths = None
        if mask is not None:
            lengths = mask_lengths(mask, tokens.shape, "audio_codes_mask", "audio_codes")
            tokens = tokens[:, : int(lengths.max())].masked_fill(~length_mask(lengths, int(lengths.max())), 0)
            lengths = None if bool((lengths == tokens.shape[1]).all()) else lengths
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.config.codebook_size:
            raise ValueError(
                f"audio_codes must lie in 0 ... {self.config.codebook_size - 1}, found {low if low < 0 else high}: "
                "subtract the vocabulary's audio offset, and remove control tokens, before decoding"
            )
        return tokens.long(), lengths

    def _fit(self, waveform: Tensor, sizes: Tensor, num_samples: int | list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Cut or extend each item of (B, T) to the duration of `num_samples` input samples."""
        wanted = torch.as_tensor(num_samples, device=waveform.device)
        if wanted.ndim > 0 and wanted.shape != sizes.shape:
            raise ValueError(f"num_samples needs one entry per item, {len(sizes)}, found shape {tuple(wanted.shape)}")
        wanted = wanted.expand(sizes.shape)
        if int(wanted.min()) < 1:
            raise ValueError(f"num_samples must be at least 1, found {int(wanted.min())}")
        wanted = wanted * self.config.output_sampling_rate // self.config.sampling_rate
        index = torch.arange(int(wanted.max()), device=waveform.device)
        index = torch.minimum(index, sizes[:, None] - 1)  # beyond the end: the last real sample
        return waveform.gather(1, index), wanted
