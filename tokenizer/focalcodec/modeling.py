"""FocalCodec (Della Libera et al., 2025, arXiv 2502.04465): 16 kHz speech <-> one stream of tokens.

B batch, T samples, N tokens, K bits per token, D feature width. Tensors between the parts are channels-last.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization
from transformers.utils import CONFIG_NAME, ModelOutput

from ..codec import CodecDecoderOutput, CodecEncoderOutput, NoTextTokenizer
from ..codec_card import write_codec_card
from ..hub import push_folder
from ..remote_code import write_remote_code
from .blocks import DynamicTanh, FocalBlock
from .checkpoint import convert_config, convert_state_dict, find_official, load_strictly, read_safetensors
from .configuration import FocalCodecConfig
from .decoders import HiFiGAN, Vocos, WaveNeXt
from .denoising import DenoisingEncoder
from .feature_extraction import FocalCodecFeatureExtractor
from .inputs import check_tokens, check_waveforms, group_items
from .knn import match_features
from .layers import ConvNeXtBlock, Snake, StreamState, length_mask
from .mel import MelEncoder
from .parts import DenoisingConfig, HiFiGANConfig, MelConfig, VocosConfig, WaveNeXtConfig, WavLMConfig, WhisperConfig
from .quantizer import QUANTIZERS
from .reference_api import StageMethods
from .stack import Compressor, Decompressor, DownScale, UpScale
from .streaming import FocalCodecStream
from .wavlm import GatedAttention, WavLMEncoder
from .whisper import WhisperEncoder

ENCODERS: dict[type, Callable[..., WavLMEncoder | WhisperEncoder | MelEncoder | DenoisingEncoder]] = {
    WavLMConfig: WavLMEncoder,
    WhisperConfig: WhisperEncoder,
    MelConfig: MelEncoder,
    DenoisingConfig: DenoisingEncoder,
}
DECODERS: dict[type, Callable[..., nn.Module]] = {VocosConfig: Vocos, WaveNeXtConfig: WaveNeXt, HiFiGANConfig: HiFiGAN}
# The sign of a latent that is nearer to zero than this share of the vector's length may depend on the shape of the
# batch (float32 rounding errors are below 1e-5).
_NEAR_ZERO = 2e-5
# Seconds of audio, with padding, that a CPU encodes or decodes together.
_GROUP_S = 6.0


@dataclass
class FocalCodecOutput(ModelOutput):
    """Result of `forward`: the tokens, and the audio decoded from them at the length of the input."""

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    audio_values: Tensor | None = None


class FocalCodecModel(StageMethods, PreTrainedAudioTokenizerBase):
    """Encoder -> compressor -> quantizer -> decompressor -> decoder.

    The tokens of an item depend only on its samples, not on the padding or the other items of a batch.
    """

    config_class = FocalCodecConfig
    main_input_name = "input_values"
    base_model_prefix = ""

    def __init__(self, config: FocalCodecConfig) -> None:
        super().__init__(config)
        encoder = config.encoder_config
        decoder = config.decoder_config
        self.encoder = ENCODERS[type(encoder)](encoder)
        self.compressor = Compressor(config.compressor_config)
        self.quantizer = QUANTIZERS[config.quantizer_config.type](config.quantizer_config)
        self.decompressor = Decompressor(config.decompressor_config)
        self.decoder = DECODERS[type(decoder)](decoder)
        self.post_init()

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> "FocalCodecModel":  # type: ignore[override]
        """Load a folder or hub id in our layout or in the official one.

        Loading is strict and from safetensors only. The default `dtype` is float32, because tokens are the signs of
        small numbers.

        Args:
            source: folder, hub id, or a config `.json` with its `.safetensors` beside it (official layout).
            args: as in transformers.
            kwargs: as in transformers.

        Raises:
            OSError: The folder does not exist, or has no safetensors weights.
            ValueError: A key of the checkpoint is missing, left over or of another shape.
        """
        kwargs.setdefault("dtype", torch.float32)
        converted = None
        official = find_official(source, kwargs)
        if official is not None:
            fields, weights = official
            config = FocalCodecConfig(**convert_config(fields))
            converted = (config, convert_state_dict(read_safetensors(weights)))

        def build(config: Any) -> "FocalCodecModel":
            return cls(config if isinstance(config, FocalCodecConfig) else FocalCodecConfig.from_dict(config))

        return load_strictly(super().from_pretrained, source, args, kwargs, converted, build)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write config, weights, a model card, and the code with which transformers opens them without this package."""
        super().save_pretrained(save_directory, **kwargs)
        classes = {
            "AutoConfig": "FocalCodecConfig",
            "AutoModel": "FocalCodecModel",
            "AutoModelForAudioTokenization": "FocalCodecModel",
        }
        write_remote_code(Path(save_directory), CONFIG_NAME, FocalCodecModel, classes)
        codec: Any = self  # mypy cannot see that `to` of transformers fits the protocol
        write_codec_card(save_directory, codec)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload what `save_pretrained` writes to the Hugging Face hub; see `hub.push_folder`."""
        return push_folder(self.save_pretrained, repo_id, **kwargs)

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
        """Whether each bit of a code has a meaning. Here, it is the sign of one dimension of the latent."""
        return True

    @property
    def feature_dim(self) -> int:
        """Width D of `extract_features`."""
        return self.config.encoder_config.dim

    def code_vectors(self) -> list[Tensor]:
        """Return the vectors of all codes of the only codebook, (codebook_size, K)."""
        return [self.quantizer.codebook]

    def _init_weights(self, module: nn.Module) -> None:
        # `init` skips parameters that were loaded from a checkpoint.
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d | nn.Embedding):
            init.trunc_normal_(module.weight, std=0.02)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        # Projections of the stacks keep the scale of their input; smaller ones would let the codes vanish, and a new
        # stack learn slowly. (Children are initialized before their parents.)
        elif isinstance(module, DownScale):
            init.normal_(module.downscale.weight, std=module.downscale.weight[0].numel() ** -0.5)
        elif isinstance(module, UpScale):
            init.normal_(module.upscale.weight, std=module.upscale.weight.shape[0] ** -0.5)
        elif isinstance(module, Decompressor):
            init.normal_(module.in_proj.weight)  # codes have unit length
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
        """Compute the continuous output of the encoder.

        Args:
            input_values: (B, T) or (B, 1, T) at `config.sampling_rate`.
            padding_mask: (B, T) bool, True where a sample is real; padding is at the end.

        Returns:
            (B, frames, D) at 50 Hz; frames of padding are zero.

        Raises:
            ValueError: Empty, non-finite or wrongly shaped input.
        """
        waveform, lengths = check_waveforms(input_values, padding_mask, self.dtype)
        return self.encoder(waveform, lengths, self._new_state(waveform))

    @torch.no_grad()
    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> CodecEncoderOutput:
        """Encode waveforms to tokens.

        Args:
            input_values: (B, T) or (B, 1, T) at `config.sampling_rate`.
            padding_mask: (B, T) bool, True where a sample is real; padding is at the end.

        Returns:
            audio_codes (B, 1, N), audio_codes_mask (B, N) and latents (B, N, K).

        Raises:
            ValueError: Empty, non-finite or wrongly shaped input.
        """
        waveform, lengths = check_waveforms(input_values, padding_mask, self.dtype)
        if waveform.shape[0] > 1 and waveform.device.type == "cpu":
            return self._encode_in_groups(waveform, lengths)
        return self._encode_together(waveform, lengths)

    def _encode_in_groups(self, waveform: Tensor, lengths: Tensor | None) -> CodecEncoderOutput:
        """Encode a batch on a CPU: long items one by one, short ones together with others of similar lengths.

        A CPU is as fast with one item of some seconds as with many, and one item needs no padding and little memory.
        """
        B, T = waveform.shape
        sizes = [T] * B if lengths is None else lengths.tolist()
        N = int(self.num_tokens(T))
        bits = self.config.codebook_dim
        tokens = torch.zeros(B, 1, N, dtype=torch.long)
        mask = torch.zeros(B, N, dtype=torch.bool)
        latents = torch.zeros(B, N, bits, dtype=self.dtype)
        for group in group_items(sizes, round(_GROUP_S * self.config.sampling_rate)):
            longest = sizes[group[0]]
            group_lengths = torch.tensor([sizes[i] for i in group])
            is_padded = int(group_lengths.min()) < longest
            output = self._encode_together(waveform[group, :longest], group_lengths if is_padded else None)
            assert output.audio_codes is not None, "an encoder returns codes"
            assert output.audio_codes_mask is not None, "an encoder returns a mask"
            assert output.latents is not None, "this encoder returns latents"
            frames = output.latents.shape[1]
            tokens[group, :, :frames] = output.audio_codes
            mask[group, :frames] = output.audio_codes_mask
            latents[group, :frames] = output.latents
        return CodecEncoderOutput(tokens, mask, latents)

    def _encode_together(self, waveform: Tensor, lengths: Tensor | None) -> CodecEncoderOutput:
        """Encode checked waveforms (B, T) in one batch."""
        latents, mask = self._encode_latents(waveform, lengths)
        if waveform.shape[0] > 1:
            # If a latent is so near to zero that rounding could decide its sign, the item is encoded again alone, so
            # that its tokens do not depend on the batch.
            is_uncertain = (latents.abs().amin(-1) < _NEAR_ZERO * latents.norm(dim=-1)) & mask
            for item in is_uncertain.any(dim=1).nonzero()[:, 0].tolist():
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
        """Decode tokens to waveforms at `config.output_sampling_rate`.

        Args:
            audio_codes: (B, 1, N) or (B, N) int64.
            audio_codes_mask: (B, N) bool, True where a token is real; padding is at the end.
            num_samples: length of each item when it was encoded, in samples at `config.sampling_rate`. The output then
                has exactly this duration: it is cut, or its last sample is repeated. By default, all samples of the
                tokens are returned.
            matching_set: (P, D) features of another speaker (`extract_features(reference)[0]`), or a list with one for
                each item. Each decompressed frame is replaced by the mean of its nearest rows (voice conversion).
            topk: number of rows to average.

        Returns:
            audio_values (B, 1, T) and padding_mask (B, T).

        Raises:
            ValueError: A token is outside the codebook, or the input is wrongly shaped.
        """
        tokens, lengths = check_tokens(audio_codes, audio_codes_mask, self.config.codebook_size)
        if tokens.shape[0] > 1 and tokens.device.type == "cpu":
            waveform = self._decode_in_groups(tokens, lengths, matching_set, topk)
        else:
            waveform = self._decode_together(tokens, lengths, matching_set, topk)
        factor = math.prod(self.config.decompressor_config.factors)
        sizes = lengths
        if sizes is None:
            sizes = torch.full((tokens.shape[0],), tokens.shape[1], device=tokens.device)
        sizes = sizes * (factor * self.config.decoder_config.hop_length)
        if num_samples is not None:
            waveform, sizes = self._fit_length(waveform, sizes, num_samples)
        mask = length_mask(sizes, waveform.shape[1])
        return CodecDecoderOutput(waveform.masked_fill(~mask, 0)[:, None], mask)

    def _decode_in_groups(
        self, tokens: Tensor, lengths: Tensor | None, matching_set: Tensor | list[Tensor] | None, topk: int
    ) -> Tensor:
        """Decode checked tokens (B, N) -> (B, T) on a CPU, in the groups in which they are encoded."""
        B, N = tokens.shape
        if isinstance(matching_set, list) and len(matching_set) != B:
            raise ValueError(f"matching_set needs one entry per item, found {len(matching_set)} for {B} items")
        sizes = [N] * B if lengths is None else lengths.tolist()
        waves: list[Tensor] = [tokens] * B
        for group in group_items(sizes, round(_GROUP_S * self.config.frame_rate)):
            longest = sizes[group[0]]
            group_lengths = torch.tensor([sizes[i] for i in group])
            is_padded = int(group_lengths.min()) < longest
            own_set = [matching_set[i] for i in group] if isinstance(matching_set, list) else matching_set
            decoded = self._decode_together(
                tokens[group, :longest], group_lengths if is_padded else None, own_set, topk
            )
            for row, i in enumerate(group):
                waves[i] = decoded[row]
        return pad_sequence(waves, batch_first=True)

    def _decode_together(
        self, tokens: Tensor, lengths: Tensor | None, matching_set: Tensor | list[Tensor] | None, topk: int
    ) -> Tensor:
        """Decode checked tokens (B, N) -> (B, T) in one batch."""
        codes = self.quantizer.tokens_to_codes(tokens, self.dtype)
        state = self._new_state(tokens)
        features = self.decompressor(codes, lengths, state)
        if matching_set is not None:
            features = match_features(features, matching_set, topk)
        # Upscaling in the decompressor gives `factor` frames per token.
        factor = math.prod(self.config.decompressor_config.factors)
        return self.decoder(features, None if lengths is None else lengths * factor, state)

    def forward(self, input_values: Tensor, padding_mask: Tensor | None = None) -> FocalCodecOutput:
        """Encode and decode waveforms. Each item keeps its length, and audio_values (B, 1, T) that of the longest."""
        waveform, lengths = check_waveforms(input_values, padding_mask, self.dtype)
        encoded = self.encode(input_values, padding_mask)
        assert encoded.audio_codes is not None
        sizes = waveform.shape[1] if lengths is None else lengths
        decoded = self.decode(encoded.audio_codes, encoded.audio_codes_mask, sizes)
        return FocalCodecOutput(encoded.audio_codes, encoded.audio_codes_mask, decoded.audio_values)

    def stream(self, batch_size: int = 1) -> FocalCodecStream:
        """Start a streaming session: `stream.encode(chunk)`, `stream.decode(codes)`, `stream.reset()`.

        Raises:
            ValueError: The model is not causal.
        """
        return FocalCodecStream(self, batch_size)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Compute the number of tokens that `encode` returns for a number of samples."""
        return self.compressor.num_frames(self.encoder.num_frames(torch.as_tensor(num_samples)))

    def _encode_latents(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T) -> normalized latents (B, N, K) and their mask (B, N)"""
        state = self._new_state(waveform)
        features = self.encoder(waveform, lengths, state)
        frames = None if lengths is None else self.encoder.num_frames(lengths)
        latents = self.quantizer.normalize(self.compressor(features, frames, state))
        B, N, _ = latents.shape
        sizes = torch.full((B,), N, device=latents.device) if lengths is None else self.num_tokens(lengths)
        return latents, length_mask(sizes, N)

    def _new_state(self, inputs: Tensor) -> StreamState | None:
        """Make the state for a single call of a causal model; other models need none."""
        if not self.config.causal:
            return None
        return StreamState.new(inputs.shape[0], inputs.device)

    def _fit_length(
        self, waveform: Tensor, sizes: Tensor, num_samples: int | list[int] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cut or extend each item of (B, T) to the duration of `num_samples` input samples."""
        durations = torch.as_tensor(num_samples, device=waveform.device)
        if durations.ndim > 0 and durations.shape != sizes.shape:
            raise ValueError(
                f"num_samples needs one entry per item, {len(sizes)} in all, found shape {tuple(durations.shape)}"
            )
        durations = durations.expand(sizes.shape)
        if int(durations.min()) < 1:
            raise ValueError(f"num_samples must be at least 1, found {int(durations.min())}")
        new_sizes = durations * self.config.output_sampling_rate // self.config.sampling_rate
        index = torch.arange(int(new_sizes.max()), device=waveform.device)
        # The last real sample of an item is repeated beyond its end.
        index = torch.minimum(index, sizes[:, None] - 1)
        return waveform.gather(1, index), new_sizes


AutoConfig.register(FocalCodecConfig.model_type, FocalCodecConfig, exist_ok=True)
AutoModel.register(FocalCodecConfig, FocalCodecModel, exist_ok=True)
AutoTokenizer.register(FocalCodecConfig, NoTextTokenizer, exist_ok=True)
AutoModelForAudioTokenization.register(FocalCodecConfig, FocalCodecModel, exist_ok=True)
AutoFeatureExtractor.register(FocalCodecConfig, FocalCodecFeatureExtractor, exist_ok=True)
# A codec processes only audio, so its processor is its feature extractor.
AutoProcessor.register(FocalCodecConfig, FocalCodecFeatureExtractor, exist_ok=True)
