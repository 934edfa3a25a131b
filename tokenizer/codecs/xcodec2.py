"""X-Codec2 (Ye et al., 2025, arXiv 2502.04128) and its descendant NeuCodec, of transformers. D width of features."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import NeuCodecModel, SeamlessM4TFeatureExtractor, Xcodec2Model
from transformers.models.neucodec.feature_extraction_neucodec import NeuCodecFeatureExtractor
from transformers.models.xcodec2.feature_extraction_xcodec2 import Xcodec2FeatureExtractor

from .adapter import CodecAdapter, CodecConfig


class Xcodec2Codec(CodecAdapter):
    """One codebook of 65536, 50 tokens per second. Its encoder reads the waveform and, through w2v-BERT 2.0, a mel."""

    model_class = Xcodec2Model

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return 1, 1

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        size = math.prod(config.quantization_levels)
        return CodecConfig(config.sampling_rate, config.hop_length, size, num_codebooks)

    def _extractor(self) -> Xcodec2FeatureExtractor:
        c = self.config
        return Xcodec2FeatureExtractor(sampling_rate=c.sampling_rate, hop_length=c.samples_per_token)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Number of frames for a number of samples: zeros fill the last one, which may be of nothing but zeros."""
        return torch.as_tensor(num_samples) // self.config.samples_per_token + 1

    def _encode_one(self, waveform: Tensor) -> Tensor:
        # Paddings as in `Xcodec2FeatureExtractor`; half a frame on both sides centres the spectrogram's windows.
        frame = self.config.samples_per_token
        waveform = F.pad(waveform, (0, frame - waveform.shape[-1] % frame))
        features = self._features(F.pad(waveform, (frame // 2, frame // 2)))
        return self.model.encode(waveform, features).audio_codes.long()

    def _features(self, waveform: Tensor) -> Tensor:
        """(1, 1, T) -> what w2v-BERT hears, (1, N, D): two frames of a normalised log-mel spectrogram per token.

        By the extractor that the codecs were trained with; those of transformers compute the same with torchaudio.
        """
        rate, wave = self.config.sampling_rate, waveform[0, 0].float().cpu().numpy()
        found = SeamlessM4TFeatureExtractor(sampling_rate=rate)(wave, sampling_rate=rate, return_tensors="pt")
        return found["input_features"].to(waveform)

    def _decode_one(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes).audio_values

    def code_vectors(self) -> list[Tensor]:
        """[(codebook_size, D)]: the point of the grid that each token stands for, D levels in -1 ... 1."""
        return [self.model.quantizer.quantizer.codebook]


class NeuCodec(Xcodec2Codec):
    """X-Codec2 trained further (Neuphonic, 2025): hears 16 kHz and speaks at 24 kHz."""

    model_class = NeuCodecModel  # type: ignore[assignment]

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        size, rates = math.prod(config.quantization_levels), (config.input_sampling_rate, config.output_sampling_rate)
        return CodecConfig(rates[0], config.encoder_hop_length, size, num_codebooks, rates[1])

    def _extractor(self) -> NeuCodecFeatureExtractor:  # type: ignore[override]
        c = self.config
        return NeuCodecFeatureExtractor(sampling_rate=c.sampling_rate, hop_length=c.samples_per_token)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Number of frames for a number of samples; as for every codec but X-Codec2."""
        return CodecAdapter.num_tokens(self, num_samples)

    def _encode_one(self, waveform: Tensor) -> Tensor:
        # `NeuCodecFeatureExtractor` adds a frame of zeros to whole frames, and the model gives no token for it, since
        # the spectrogram is not centred. Of incomplete frames both would lose the last: they are filled up first.
        frame = self.config.samples_per_token
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % frame + frame))
        return self.model.encode(waveform, self._features(waveform)).audio_codes.long()
