"""DAC (Kumar et al., 2023) of transformers."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import DacFeatureExtractor, DacModel

from .adapter import CodecAdapter, CodecConfig


class DacCodec(CodecAdapter):
    """All codebooks by default; the FocalCodec paper compares with 2 of them."""

    model_class = DacModel

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return config.n_codebooks, config.n_codebooks

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        return CodecConfig(config.sampling_rate, config.hop_length, config.codebook_size, num_codebooks)

    def _extractor(self) -> DacFeatureExtractor:
        return DacFeatureExtractor(sampling_rate=self.config.sampling_rate, hop_length=self.config.samples_per_token)

    def _encode_one(self, waveform: Tensor) -> Tensor:
        # Its convolutions do not fill up the last frame themselves.
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.config.samples_per_token))
        return self.model.encode(waveform, n_quantizers=self.config.num_quantizers).audio_codes

    def _decode_one(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes).audio_values

    def code_vectors(self) -> list[Tensor]:
        """(codebook_size, D) for each codebook in use."""
        return [layer.codebook.weight for layer in self.model.quantizer.quantizers[: self.config.num_quantizers]]
