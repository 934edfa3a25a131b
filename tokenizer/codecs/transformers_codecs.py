"""The codecs that transformers has: EnCodec, DAC, Mimi, X-Codec2 and NeuCodec.

Their models are imported when they are used, because each of them takes time. B batch, K codebooks, N frames, T
samples, D feature width.
"""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import FeatureExtractionMixin, PreTrainedModel

from ..config_checks import check_sizes
from ..focalcodec.checkpoint import check_before_loading, check_loaded
from .adapter import CodecAdapter, CodecConfig


class TransformersCodec(CodecAdapter):
    """The base class of the codecs of transformers."""

    model_name: ClassVar[str]

    @classmethod
    def get_model_class(cls) -> type[PreTrainedModel]:
        """Import the class of the model."""
        return getattr(transformers, cls.model_name)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any
    ) -> "TransformersCodec":
        """Load a folder or hub id of transformers; see `CodecAdapter.from_pretrained`."""
        model_class: Any = cls.get_model_class()

        def build(fields: dict[str, Any]) -> PreTrainedModel:
            config = model_class.config_class.from_dict(fields)
            available, _ = cls._count_codebooks(config)
            # Some models compute the number of codebooks from bit rates.
            check_sizes({"num_codebooks": available}, f"{source}/config.json")
            return model_class(config)

        check_before_loading(source, kwargs, build)
        options: dict[str, Any] = {"dtype": torch.float32, **kwargs}
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        try:
            model, info = model_class.from_pretrained(source, **options)
        except SafetensorError as error:
            raise ValueError(
                f"{source} holds weights that are not safetensors ({error}): the file is damaged or a renamed pickle, "
                "which is never loaded; fetch it again"
            ) from None
        # Keys too many are no error: the published files were made for several versions of transformers.
        wrong = sorted(info["missing_keys"])
        wrong += sorted(key for key, *_ in info["mismatched_keys"])
        if wrong:
            raise ValueError(
                f"{source} lacks {len(wrong)} weights that its config.json asks for, or has them in another shape: "
                f"{wrong[:5]}; fetch both files again"
            )
        check_loaded(model.state_dict(), source)
        return cls(model, num_codebooks)


class EncodecCodec(TransformersCodec):
    """EnCodec (Defossez et al., 2022, arXiv 2210.13438), the 24 kHz mono models.

    `num_codebooks` takes the place of the bandwidth: 2 for 1.5 kbit/s (the default), 8 for 6 kbit/s, and so on.
    """

    model_name = "EncodecModel"

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        kbps_per_codebook = config.codebook_nbits * config.frame_rate / 1000
        return config.num_quantizers, max(1, int(config.target_bandwidths[0] / kbps_per_codebook))

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s is not None:
            raise ValueError(
                "this EnCodec works on chunks with their own loudness (48 kHz stereo), which tokens do not carry: "
                "use a 24 kHz mono checkpoint (facebook/encodec_24khz)"
            )
        return CodecConfig(config.sampling_rate, config.hop_length, config.codebook_size, num_codebooks)

    def _encode_item(self, waveform: Tensor) -> Tensor:
        # Residual codebooks are nested: those of the highest bandwidth begin with those of any lower one.
        codes = self.model.encode(waveform, bandwidth=self.model.config.target_bandwidths[-1]).audio_codes
        return codes[0][:, : self.config.num_quantizers]  # (chunks = 1, 1, K, N)

    def _decode_item(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes[None], [None]).audio_values

    def code_vectors(self) -> list[Tensor]:
        """Return (codebook_size, D) for each codebook in use."""
        return [layer.codebook.embed for layer in self.model.quantizer.layers[: self.config.num_quantizers]]


class DacCodec(TransformersCodec):
    """DAC (Kumar et al., 2023, arXiv 2306.06546).

    All codebooks are used by default; the FocalCodec paper compares with 2 of them.
    """

    model_name = "DacModel"

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        return config.n_codebooks, config.n_codebooks

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.hop_length, config.codebook_size, num_codebooks)

    def make_feature_extractor(self) -> FeatureExtractionMixin:
        """Make the feature extractor of DAC, with the rate and hop of this model."""
        return transformers.DacFeatureExtractor(
            sampling_rate=self.config.sampling_rate, hop_length=self.config.samples_per_token
        )

    def _encode_item(self, waveform: Tensor) -> Tensor:
        # The model itself would drop an incomplete last frame.
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.samples_per_token))
        return self.model.encode(waveform, n_quantizers=self.config.num_quantizers).audio_codes

    def _decode_item(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes).audio_values

    def code_vectors(self) -> list[Tensor]:
        """Return (codebook_size, D) for each codebook in use."""
        return [layer.codebook.weight for layer in self.model.quantizer.quantizers[: self.config.num_quantizers]]


class MimiCodec(TransformersCodec):
    """Mimi (Defossez et al., 2024, arXiv 2410.00037). The first codebook is the semantic one.

    All codebooks are used by default; the FocalCodec paper compares with 5 of them.
    """

    model_name = "MimiModel"

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        return config.num_quantizers, config.num_quantizers

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        samples_per_token = round(config.sampling_rate / config.frame_rate)
        return CodecConfig(config.sampling_rate, samples_per_token, config.codebook_size, num_codebooks)

    def _encode_item(self, waveform: Tensor) -> Tensor:
        return self.model.encode(waveform, num_quantizers=self.config.num_quantizers).audio_codes

    def _decode_item(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes).audio_values

    def code_vectors(self) -> list[Tensor]:
        """Return (codebook_size, D) for each codebook in use."""
        quantizer = self.model.quantizer
        layers = [*quantizer.semantic_residual_vector_quantizer.layers]
        layers += quantizer.acoustic_residual_vector_quantizer.layers
        return [layer.codebook.embed for layer in layers[: self.config.num_quantizers]]


class Xcodec2Codec(TransformersCodec):
    """X-Codec2 (Ye et al., 2025, arXiv 2502.04128): one codebook of 65,536 codes, 50 tokens per second.

    Its encoder gets the waveform, and a mel spectrogram through w2v-BERT 2.0.
    """

    model_name = "Xcodec2Model"

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        codebook_size = math.prod(config.quantization_levels)
        return CodecConfig(config.sampling_rate, config.hop_length, codebook_size, num_codebooks)

    def make_feature_extractor(self) -> FeatureExtractionMixin:
        """Make the feature extractor of X-Codec2, with the rate and hop of this model."""
        from transformers.models.xcodec2.feature_extraction_xcodec2 import Xcodec2FeatureExtractor

        return Xcodec2FeatureExtractor(
            sampling_rate=self.config.sampling_rate, hop_length=self.config.samples_per_token
        )

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Return the number of frames for a number of samples.

        Zeros fill up the last frame. If all frames are full, a frame of zeros is added.
        """
        return torch.as_tensor(num_samples) // self.config.samples_per_token + 1

    def _encode_item(self, waveform: Tensor) -> Tensor:
        # Padding as in `Xcodec2FeatureExtractor`; half a frame on both sides centers the windows of the spectrogram.
        frame = self.config.samples_per_token
        waveform = F.pad(waveform, (0, frame - waveform.shape[-1] % frame))
        features = self._mel_features(F.pad(waveform, (frame // 2, frame // 2)))
        return self.model.encode(waveform, features).audio_codes.long()

    def _mel_features(self, waveform: Tensor) -> Tensor:
        """Compute the input of w2v-BERT, (1, 1, T) -> (1, N, D): two frames of a log-mel spectrogram per token."""
        # The codecs were trained with this extractor. Their own ones in transformers do the same with torchaudio.
        sampling_rate = self.config.sampling_rate
        extractor = transformers.SeamlessM4TFeatureExtractor(sampling_rate=sampling_rate)
        samples = waveform[0, 0].float().cpu().numpy()
        features = extractor(samples, sampling_rate=sampling_rate, return_tensors="pt")
        return features["input_features"].to(waveform)

    def _decode_item(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes).audio_values

    def code_vectors(self) -> list[Tensor]:
        """Return [(codebook_size, D)]: each code stands for a grid point, with D coordinates from -1 to 1."""
        return [self.model.quantizer.quantizer.codebook]


class NeuCodec(Xcodec2Codec):
    """NeuCodec (Neuphonic, 2025): X-Codec2 trained further. It encodes 16 kHz and decodes to 24 kHz."""

    model_name = "NeuCodecModel"

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(
            sampling_rate=config.input_sampling_rate,
            samples_per_token=config.encoder_hop_length,
            codebook_size=math.prod(config.quantization_levels),
            num_quantizers=num_codebooks,
            output_sampling_rate=config.output_sampling_rate,
        )

    def make_feature_extractor(self) -> FeatureExtractionMixin:
        """Make the feature extractor of NeuCodec, with the rate and hop of this model."""
        from transformers.models.neucodec.feature_extraction_neucodec import NeuCodecFeatureExtractor

        return NeuCodecFeatureExtractor(
            sampling_rate=self.config.sampling_rate, hop_length=self.config.samples_per_token
        )

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Return the number of frames for a number of samples, without the extra frame of X-Codec2."""
        return CodecAdapter.num_tokens(self, num_samples)

    def _encode_item(self, waveform: Tensor) -> Tensor:
        # `NeuCodecFeatureExtractor` adds a frame of zeros to whole frames, for which the model gives no token because
        # the spectrogram is not centered. An incomplete last frame would get no token either, so it is filled up first.
        frame = self.config.samples_per_token
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % frame + frame))
        return self.model.encode(waveform, self._mel_features(waveform)).audio_codes.long()
