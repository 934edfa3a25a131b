"""Mimi (Defossez et al., 2024) of transformers."""

from typing import Any

from torch import Tensor
from transformers import MimiModel

from .adapter import CodecAdapter, CodecConfig


class MimiCodec(CodecAdapter):
    """All codebooks by default; the first is the semantic one, and the FocalCodec paper compares with 5."""

    model_class = MimiModel

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return config.num_quantizers, config.num_quantizers

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        samples = round(config.sampling_rate / config.frame_rate)
        return CodecConfig(config.sampling_rate, samples, config.codebook_size, num_codebooks)

    def _encode_one(self, waveform: Tensor) -> Tensor:
        return self.model.encode(waveform, num_quantizers=self.config.num_quantizers).audio_codes

    def _decode_one(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes).audio_values

    def code_vectors(self) -> list[Tensor]:
        """(codebook_size, D) for each codebook in use."""
        quantizer = self.model.quantizer
        parts = quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer
        return [layer.codebook.embed for part in parts for layer in part.layers][: self.config.num_quantizers]
