"""The calls of `FocalCodecModel` for codecs of transformers. B batch, K codebooks, N frames, T samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, FeatureExtractionMixin, PreTrainedModel

from ..codec import CodecDecoderOutput, CodecEncoderOutput, CodecStream
from ..focalcodec.layers import length_mask

# Key in config.json that remembers how many codebooks are used.
_REMEMBERED = "used_codebooks"


@dataclass(frozen=True)
class CodecConfig:
    """The facts about a codec that `AudioTokenizer` needs, named as in `FocalCodecConfig`.

    Args:
        sampling_rate: in Hz.
        samples_per_token: samples per frame.
        codebook_size: number of codes of each codebook, or of the largest.
        num_quantizers: number of codebooks.
        sizes: number of codes of each codebook, where they differ.
        frames_per_block: frames that mean something only together; a sequence may not begin inside a block.
        output_sampling_rate: of decoded audio in Hz; 0 stands for that of the input.
    """

    sampling_rate: int
    samples_per_token: int
    codebook_size: int
    num_quantizers: int
    output_sampling_rate: int = 0
    sizes: tuple[int, ...] | None = None
    frames_per_block: int = 1

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook in use."""
        return self.sizes or (self.codebook_size,) * self.num_quantizers

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_sampling_rate", self.output_sampling_rate or self.sampling_rate)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.samples_per_token


def register_model(model_class: type[PreTrainedModel]) -> None:
    """Make the Auto classes of transformers open checkpoints of a native codec."""
    config_class: Any = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)


class CodecAdapter(nn.Module):
    """A codec of transformers behind the calls of `FocalCodecModel`.

    Items of a batch are encoded and decoded one by one: these architectures have no masks, or masks that do not reach
    every layer, and only so are the tokens of an item a function of its own samples.

    Args:
        model: the transformers model.
        num_codebooks: how many codebooks to use, from the first; by default as many as the folder was saved with, or
            else as many as the transformers class uses when it is not told.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    is_causal: ClassVar[bool] = False
    is_binary: ClassVar[bool] = False
    feature_dim: ClassVar[int | None] = None

    def __init__(self, model: PreTrainedModel, num_codebooks: int | None = None) -> None:
        super().__init__()
        available, default = self._codebooks(model.config)
        used = num_codebooks or getattr(model.config, _REMEMBERED, None) or default
        if not 1 <= used <= available:
            raise ValueError(f"num_codebooks must lie in 1 ... {available} for this checkpoint, found {used}")
        setattr(model.config, _REMEMBERED, used)
        self.model = model.eval()
        self.config = self._describe(model.config, used)

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "CodecAdapter":
        """Load a folder or hub id of transformers; kwargs as there, float32 unless `dtype` is given.

        A key too many is only reported (by transformers): the published files were made for several of its versions.

        Raises:
            OSError: no safetensors weights; pickled ones are never loaded.
            ValueError: damaged weights, or a key is missing or of another shape.
        """
        options: dict[str, Any] = {"dtype": torch.float32, **kwargs}
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        load: Any = cls.model_class.from_pretrained
        try:
            model, info = load(source, **options)
        except SafetensorError as error:
            raise ValueError(
                f"{source} holds weights that are not safetensors ({error}): the file is damaged or a renamed pickle, "
                "which is never loaded; fetch it again"
            ) from None
        wrong = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
        if wrong:
            raise ValueError(
                f"{source} lacks {len(wrong)} weights that its config.json asks for, or has them in another shape: "
                f"{wrong[:5]}; fetch both files again"
            )
        return cls(model, num_codebooks)

    def save_pretrained(self, folder: str | Path) -> None:
        """A folder that plain transformers opens: model and feature extractor."""
        self.model.save_pretrained(folder)
        self._extractor().save_pretrained(folder)

    @property
    def pretrained_model(self) -> PreTrainedModel:
        """The model of transformers that holds the weights."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Number of frames for a number of samples."""
        return -(-torch.as_tensor(num_samples) // self.config.samples_per_token)

    @torch.no_grad()
    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> CodecEncoderOutput:
        """(B, 1, T) or (B, T) waveforms, (B, T) bool -> audio_codes (B, K, N) int64, audio_codes_mask (B, N) bool."""
        waveform = input_values.flatten(1)
        lengths = [waveform.shape[1]] * len(waveform) if padding_mask is None else padding_mask.sum(1).tolist()
        waves = waveform.to(self.model.dtype)
        codes = [self._encode_one(wave[None, None, :size])[0].T for wave, size in zip(waves, lengths, strict=True)]
        sizes = torch.tensor([len(c) for c in codes], device=waveform.device)
        padded = pad_sequence(codes, batch_first=True).mT
        return CodecEncoderOutput(padded, length_mask(sizes, padded.shape[2]))

    @torch.no_grad()
    def decode(
        self,
        audio_codes: Tensor,
        audio_codes_mask: Tensor | None = None,
        num_samples: int | list[int] | Tensor | None = None,
    ) -> CodecDecoderOutput:
        """(B, K, N) codes -> audio_values (B, 1, T), padding_mask (B, T).

        An item lasts `num_samples` of the input (cut, or its last sample repeated), or N frames.

        Raises:
            ValueError: a code outside its codebook, or another number of codebooks.
        """
        B, K, N = audio_codes.shape
        c = self.config
        sizes = torch.tensor(c.codebook_sizes, device=audio_codes.device)[:, None]
        if c.num_quantizers != K or bool(((audio_codes < 0) | (audio_codes >= sizes)).any()):
            raise ValueError(
                f"audio_codes must be (B, {c.num_quantizers}, N), those of each codebook from 0 to below its size in "
                f"{c.codebook_sizes}, found the shape {tuple(audio_codes.shape)} and "
                f"{int(audio_codes.min())} ... {int(audio_codes.max())}"
            )
        frames = torch.full((B,), N) if audio_codes_mask is None else audio_codes_mask.sum(1)
        wanted = frames.cpu() * c.samples_per_token if num_samples is None else torch.as_tensor(num_samples).expand(B)
        wanted = wanted * c.output_sampling_rate // c.sampling_rate
        waves = []
        for item, size, length in zip(audio_codes, frames.tolist(), wanted.tolist(), strict=True):
            wave = self._decode_one(item[None, :, :size]).flatten()
            index = torch.arange(length, device=wave.device).clamp(max=len(wave) - 1)
            waves.append(wave[index])
        padded = pad_sequence(waves, batch_first=True)
        return CodecDecoderOutput(padded[:, None], length_mask(wanted.to(padded.device), padded.shape[1]))

    def extract_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Refuse: only a FocalCodec has continuous features.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"a {type(self).__name__} has no continuous features: use a FocalCodec")

    def stream(self, batch_size: int = 1) -> CodecStream:
        """Refuse: only a causal FocalCodec can be streamed exactly.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"a {type(self).__name__} cannot be streamed: use a causal FocalCodec")

    # What each codec adds.

    def code_vectors(self) -> list[Tensor]:
        """What each code stands for inside the codec: (codebook_size, D) for each codebook in use."""
        raise NotImplementedError

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        """-> how many codebooks there are, and how many transformers uses by default"""
        raise NotImplementedError

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        raise NotImplementedError

    # What some do otherwise.

    def _extractor(self) -> FeatureExtractionMixin:
        """The feature extractor that transformers pairs with this codec; EnCodec's for those that have none."""
        # Imported here because most codecs do not need EnCodec's module.
        from transformers import EncodecFeatureExtractor

        return EncodecFeatureExtractor(sampling_rate=self.config.sampling_rate)

    def _encode_one(self, waveform: Tensor) -> Tensor:
        """(1, 1, T) -> (1, K, N)"""
        return self.model.encode(waveform)[:, : self.config.num_quantizers]

    def _decode_one(self, codes: Tensor) -> Tensor:
        """(1, K, N) -> (1, 1, T) or (1, T)"""
        return self.model.decode(codes)
