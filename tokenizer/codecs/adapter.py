"""The base class of all other codecs: it gives them the methods of `FocalCodecModel`.

B batch, K codebooks, N frames, T samples, D feature width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer, FeatureExtractionMixin, PreTrainedModel
from transformers.utils import CONFIG_NAME

from ..codec import CodecDecoderOutput, CodecEncoderOutput, CodecStream, NoTextTokenizer
from ..codec_card import write_codec_card
from ..focalcodec.layers import length_mask
from ..remote_code import write_remote_code

# Key of the model's config.json that stores how many codebooks are in use.
USED_CODEBOOKS_KEY = "used_codebooks"


@dataclass(frozen=True)
class CodecConfig:
    """The properties of a codec that `AudioTokenizer` needs, named as in `FocalCodecConfig`.

    Args:
        sampling_rate: of the input in Hz.
        samples_per_token: samples per frame.
        codebook_size: number of codes of each codebook, or of the largest.
        num_quantizers: number of codebooks in use.
        output_sampling_rate: of decoded audio in Hz; 0 means that of the input.
        sizes: number of codes of each codebook, where they differ.
        frames_per_block: frames that can only be decoded together; a sequence must not begin inside a block.
    """

    sampling_rate: int
    samples_per_token: int
    codebook_size: int
    num_quantizers: int
    output_sampling_rate: int = 0
    sizes: tuple[int, ...] | None = None
    frames_per_block: int = 1

    def __post_init__(self) -> None:
        # A frozen dataclass can only be changed this way.
        object.__setattr__(self, "output_sampling_rate", self.output_sampling_rate or self.sampling_rate)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook in use."""
        return self.sizes or (self.codebook_size,) * self.num_quantizers

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.samples_per_token


class NativeModel(PreTrainedModel):
    """The base class of models whose architecture is in this package. Subclasses set `config_class`."""

    main_input_name = "waveform"

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write config, weights and the code that transformers needs to open them without this package."""
        super().save_pretrained(save_directory, **kwargs)
        classes = {"AutoConfig": type(self.config).__name__, "AutoModel": type(self).__name__}
        write_remote_code(Path(save_directory), CONFIG_NAME, type(self), classes)

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: constructors initialize the weights, and loading is strict, so that none is left to be drawn."""


def register_model(model_class: type[PreTrainedModel]) -> None:
    """Register a native model and its config, so that the Auto classes of transformers open its checkpoints."""
    config_class: Any = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoTokenizer.register(config_class, NoTextTokenizer, exist_ok=True)


class CodecAdapter(nn.Module):
    """Wrap a codec model so that it has the methods of `FocalCodecModel`.

    Items of a batch are encoded and decoded one by one: the wrapped models have no padding masks, or masks that do not
    reach every layer. Only this way the tokens of an item depend on its own samples alone.

    Args:
        model: the model to wrap.
        num_codebooks: how many codebooks to use, counted from the first. The default is the number that the checkpoint
            was saved with, or else the default of the model.

    Raises:
        ValueError: The model does not have that many codebooks.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    is_causal: ClassVar[bool] = False
    is_binary: ClassVar[bool] = False
    feature_dim: ClassVar[int | None] = None

    def __init__(self, model: PreTrainedModel, num_codebooks: int | None = None) -> None:
        super().__init__()
        available, default = self._count_codebooks(model.config)
        used = num_codebooks or getattr(model.config, USED_CODEBOOKS_KEY, None) or default
        if not 1 <= used <= available:
            raise ValueError(f"num_codebooks must lie in 1 ... {available} for this checkpoint, found {used}")
        setattr(model.config, USED_CODEBOOKS_KEY, used)
        self.model = model.eval()
        self.config = self._make_config(model.config, used)

    @classmethod
    def get_model_class(cls) -> type[PreTrainedModel]:
        """Return the class of the wrapped model. Codecs of transformers import it only here."""
        return cls.model_class

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and its feature extractor; transformers can open the folder, too."""
        self.model.save_pretrained(folder)
        self.make_feature_extractor().save_pretrained(folder)
        write_codec_card(folder, self)

    @property
    def pretrained_model(self) -> PreTrainedModel:
        """The wrapped model, which holds the weights."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Return the number of frames for a number of samples."""
        return -(-torch.as_tensor(num_samples) // self.config.samples_per_token)

    @torch.no_grad()
    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> CodecEncoderOutput:
        """Encode waveforms.

        Args:
            input_values: (B, 1, T) or (B, T).
            padding_mask: (B, T) bool, True where a sample is real.

        Returns:
            audio_codes (B, K, N) int64 and audio_codes_mask (B, N) bool.
        """
        waveforms = input_values.flatten(1)
        lengths = [waveforms.shape[1]] * len(waveforms)
        if padding_mask is not None:
            lengths = padding_mask.sum(1).tolist()
        codes = []
        for waveform, length in zip(waveforms.to(self.model.dtype), lengths, strict=True):
            item_codes = self._encode_item(waveform[None, None, :length])
            codes.append(item_codes[0].T)
        num_frames = torch.tensor([len(item_codes) for item_codes in codes], device=waveforms.device)
        padded = pad_sequence(codes, batch_first=True).mT
        return CodecEncoderOutput(padded, length_mask(num_frames, padded.shape[2]))

    @torch.no_grad()
    def decode(
        self,
        audio_codes: Tensor,
        audio_codes_mask: Tensor | None = None,
        num_samples: int | list[int] | Tensor | None = None,
    ) -> CodecDecoderOutput:
        """Decode codes to waveforms.

        Args:
            audio_codes: (B, K, N).
            audio_codes_mask: (B, N) bool, True where a frame is real.
            num_samples: length of each item at the input rate. The audio is cut, or its last sample repeated. The
                default is the length of all its frames.

        Returns:
            audio_values (B, 1, T) and padding_mask (B, T).

        Raises:
            ValueError: A code outside its codebook, or another number of codebooks.
        """
        self._check_codes(audio_codes)
        B, _, N = audio_codes.shape
        num_frames = torch.full((B,), N) if audio_codes_mask is None else audio_codes_mask.sum(1).cpu()
        if num_samples is None:
            lengths = num_frames * self.config.samples_per_token
        else:
            lengths = torch.as_tensor(num_samples).expand(B)
        lengths = lengths * self.config.output_sampling_rate // self.config.sampling_rate

        waveforms = []
        for codes, frames, length in zip(audio_codes, num_frames.tolist(), lengths.tolist(), strict=True):
            waveform = self._decode_item(codes[None, :, :frames]).flatten()
            # Indices beyond the end repeat the last sample.
            index = torch.arange(length, device=waveform.device).clamp(max=len(waveform) - 1)
            waveforms.append(waveform[index])
        padded = pad_sequence(waveforms, batch_first=True)
        return CodecDecoderOutput(padded[:, None], length_mask(lengths.to(padded.device), padded.shape[1]))

    def _check_codes(self, audio_codes: Tensor) -> None:
        sizes = torch.tensor(self.config.codebook_sizes, device=audio_codes.device)[:, None]
        K = self.config.num_quantizers
        if audio_codes.shape[1] != K or bool(((audio_codes < 0) | (audio_codes >= sizes)).any()):
            raise ValueError(
                f"audio_codes must be (B, {K}, N), with codes from 0 to below the size of their codebook "
                f"{self.config.codebook_sizes}, found the shape {tuple(audio_codes.shape)} and codes from "
                f"{int(audio_codes.min())} to {int(audio_codes.max())}: they were made with another codec, or with "
                "another num_codebooks"
            )

    def extract_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Raise an error: only a FocalCodec has continuous features.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"a {type(self).__name__} has no continuous features: use a FocalCodec")

    def stream(self, batch_size: int = 1) -> CodecStream:
        """Raise an error: only a causal FocalCodec can be streamed exactly.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"a {type(self).__name__} cannot be streamed: use a causal FocalCodec")

    # Every codec defines the next three methods.

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "CodecAdapter":
        """Load a folder or hub id.

        Args:
            source: folder or hub id.
            num_codebooks: how many codebooks to use; see the class.
            kwargs: options of transformers, such as `revision`. Weights are float32 unless `dtype` is given.

        Raises:
            OSError: There are no safetensors weights. Pickled ones are never loaded.
            ValueError: Damaged weights, or a key that is missing or of another shape. Native codecs also raise it for
                keys that are left over.
        """
        raise NotImplementedError

    def code_vectors(self) -> list[Tensor]:
        """Return the vector of every code inside the codec: (codebook_size, D) for each codebook in use."""
        raise NotImplementedError

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        """Describe the wrapped model, given its config and the number of codebooks in use."""
        raise NotImplementedError

    # Codecs override the next methods where they differ.

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        """Return the number of codebooks of a model, and the number that is used by default."""
        return 1, 1

    def make_feature_extractor(self) -> FeatureExtractionMixin:
        """Make the feature extractor that transformers uses with this codec."""
        # Native codecs save that of EnCodec, which only stores the sampling rate. Importing it takes time.
        from transformers import EncodecFeatureExtractor

        return EncodecFeatureExtractor(sampling_rate=self.config.sampling_rate)

    def _encode_item(self, waveform: Tensor) -> Tensor:
        """(1, 1, T) -> (1, K, N)"""
        return self.model.encode(waveform)[:, : self.config.num_quantizers]

    def _decode_item(self, codes: Tensor) -> Tensor:
        """(1, K, N) -> (1, 1, T) or (1, T)"""
        return self.model.decode(codes)
