"""EnCodec (Defossez et al., 2022) of transformers, the 24 kHz mono models."""

from typing import Any

from torch import Tensor
from transformers import EncodecModel

from .adapter import CodecAdapter, CodecConfig


class EncodecCodec(CodecAdapter):
    """`num_codebooks` takes the place of the bandwidth: 2 for 1.5 kbps (the default), 8 for 6 kbps, ..."""

    model_class = EncodecModel

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        per_codebook = config.codebook_nbits * config.frame_rate / 1000  # kbps
        return config.num_quantizers, max(1, int(config.target_bandwidths[0] / per_codebook))

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s is not None:
            raise ValueError(
                "this EnCodec works on chunks with their own loudness (48 kHz stereo), which tokens do not carry: "
                "use a 24 kHz mono checkpoint (facebook/encodec_24khz)"
            )
        return CodecConfig(config.sampling_rate, config.hop_length, config.codebook_size, num_codebooks)

    def _encode_one(self, waveform: Tensor) -> Tensor:
        # Residual codebooks are nested: those of the highest bandwidth begin with those of any lower one.
        codes = self.model.encode(waveform, bandwidth=self.model.config.target_bandwidths[-1]).audio_codes
        return codes[0][:, : self.config.num_quantizers]  # (chunks = 1, 1, K, N)

    def _decode_one(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes[None], [None]).audio_values

    def code_vectors(self) -> list[Tensor]:
        """(codebook_size, D) for each codebook in use."""
        return [layer.codebook.embed for layer in self.model.quantizer.layers[: self.config.num_quantizers]]
