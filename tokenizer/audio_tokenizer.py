"""`AudioTokenizer`: speech to token ids and back, with any codec.

B batch, T samples, N token frames, K codebooks, L ids of an item.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature
from transformers.utils import FEATURE_EXTRACTOR_NAME

from .audio import load_audio
from .codec import Codec
from .codec_card import describe_codec
from .codecs.auto import load_codec
from .codecs.pattern import CodePattern
from .files import first_not_finite, whole_files
from .focalcodec.feature_extraction import FocalCodecFeatureExtractor
from .focalcodec.inputs import group_items
from .hub import CARD, push_folder
from .long_audio import MAX_WHOLE_S, decode_long, encode_long
from .remote_code import write_remote_code
from .waveform import Waveform, with_rates

Ids = Tensor | NDArray[np.integer] | Sequence[int]

_BATCH_S = 120.0  # audio, including padding, that goes through the codec at once


class AudioTokenizer:
    """Converts speech to token ids and back.

    Ids are 0 ... vocab_size - 1. With K codebooks, a frame is K ids: each is a code plus the sizes of the codebooks
    before its own (see `CodePattern`). The ids of an item depend only on its samples, never on the rest of a batch.

    Audio up to `MAX_WHOLE_S` (120 s) is encoded and decoded in one pass. Longer audio is processed in windows with 10 s
    of context on both sides: streamed, which is exact, with causal FocalCodecs, and approximately with other codecs.

    Args:
        codec: a `FocalCodecModel`, or an adapter from `tokenizer.codecs`.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.feature_extractor = FocalCodecFeatureExtractor(sampling_rate=codec.config.sampling_rate)
        self.pattern = CodePattern(codec.config.codebook_sizes)

    def __repr__(self) -> str:
        name = self.codec.pretrained_model.name_or_path
        facts = describe_codec(self.codec)
        codec = facts.pop("codec")
        return f"AudioTokenizer({codec} {name!r}: {', '.join(facts.values())})"

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "mini", num_codebooks: int | None = None, **kwargs: Any
    ) -> "AudioTokenizer":
        """Load any codec.

        Args:
            source: `"mini"` (the small FocalCodec inside the package), a folder, or a hub id. It may hold a FocalCodec
                in our layout or the official one, or another codec in the layout of transformers (EnCodec, DAC, Mimi,
                X-Codec2, NeuCodec) or of its authors. `"semanticodec"` takes the options of `SemantiCodecConfig` as
                kwargs.
            num_codebooks: number of codebooks to use, if there are several. The default is the number with which the
                codec was saved, or else that of transformers (2 for EnCodec, all for DAC and Mimi).
            kwargs: as in transformers (`revision`, `cache_dir`, `token`, `dtype`, ...).

        Raises:
            OSError: The source does not exist, or has no safetensors weights.
            ValueError: The codec is unknown, or its weights do not fit.
        """
        return cls(load_codec(source, num_codebooks, **kwargs))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` and the Auto classes of transformers can open, with a model card.

        The folder also holds the code of the codec: with `trust_remote_code=True`, transformers opens it without this
        package.

        Raises:
            OSError: There is a file of this name.
            ValueError: A weight is not finite.
        """
        folder = Path(folder)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file: name a folder")
        broken = first_not_finite(self.codec.pretrained_model.state_dict())
        if broken is not None:
            raise ValueError(
                f"the codec is not saved, because its weight {broken} holds NaN or infinity: its training diverged, or "
                "half precision is too small for a value"
            )
        with whole_files(folder) as temporary:
            self.codec.save_pretrained(temporary)
            # The owner of the folder may have edited the card in it.
            if (folder / CARD).exists():
                (temporary / CARD).unlink()
            # Some adapters have already saved the feature extractor that transformers has for their codec.
            if not (temporary / FEATURE_EXTRACTOR_NAME).exists():
                self.feature_extractor.save_pretrained(temporary)
                classes = {"AutoFeatureExtractor": "FocalCodecFeatureExtractor"}
                write_remote_code(temporary, FEATURE_EXTRACTOR_NAME, type(self.codec), classes)

    def push_to_hub(self, repo: str, **kwargs: Any) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; see `hub.push_folder`."""
        return push_folder(self.save_pretrained, repo, **kwargs)

    # Properties that a language model needs.

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def pad_token_id(self) -> int:
        """The id of padding, which is also a code: only the attention mask tells them apart."""
        return 0

    @property
    def vocab_size(self) -> int:
        """Number of different ids: the sum of the codebooks' sizes."""
        return self.pattern.vocab_size

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook in use."""
        return self.pattern.codebook_sizes

    @property
    def codebook_size(self) -> int:
        """Number of codes of a codebook, of the largest where they differ."""
        return self.codec.config.codebook_size

    @property
    def num_codebooks(self) -> int:
        """Ids per frame."""
        return self.codec.config.num_quantizers

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.codec.config.frame_rate

    @property
    def tokens_per_second(self) -> float:
        """Ids per second: K * frame_rate."""
        return self.frame_rate * self.num_codebooks

    @property
    def bits_per_second(self) -> float:
        """Bit rate of the ids."""
        return self.frame_rate * sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def sampling_rate(self) -> int:
        """Rate of the codec's input in Hz; `num_samples` counts samples at this rate."""
        return self.codec.config.sampling_rate

    @property
    def output_sampling_rate(self) -> int:
        """Rate of decoded audio in Hz."""
        return self.codec.config.output_sampling_rate

    @property
    def device(self) -> torch.device:
        """Device of the codec."""
        return self.codec.device

    def to(self, device: str | torch.device) -> "AudioTokenizer":
        """Move the codec to a device."""
        self.codec.to(device)
        return self

    # Audio -> ids.

    def __call__(
        self, audio: Any, sampling_rate: int | list[int] | None = None, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Encode one item or a list of items.

        An item is a path; an array or tensor, (T,), (C, T) or (T, C), of floats in [-1, 1] or int16, int32, uint8 PCM;
        a row of `datasets`, {"array", "sampling_rate"}, {"bytes", "path"} or {"path"}; or a torchcodec `AudioDecoder`.
        A list may mix them, their lengths and their rates. Channels are averaged.

        Args:
            audio: an item, or a list of items.
            sampling_rate: rate of the arrays and tensors in Hz, one for all or one each; files and rows have their own.
                The default is the codec's `sampling_rate`.
            return_tensors: "pt" for tensors, "np" for arrays, None for lists, which are not padded.

        Returns:
            input_ids (B, L) int64, attention_mask (B, L) int64, and num_samples (B,) at the codec's `sampling_rate`,
            for `decode`. All of them are on the CPU; ids of padding are 0.

        Raises:
            OSError: A file is missing or cannot be read.
            ValueError: Audio is empty, non-finite or wrongly shaped; the message says which item.
        """
        items = with_rates(audio, sampling_rate)
        waves = []
        for index, (item, rate) in enumerate(items):
            try:
                waves.append(torch.from_numpy(self.feature_extractor.prepare(*load_audio(item, rate))))
            except (ValueError, OSError) as error:
                # The class of the error says whether the file or its content is at fault.
                error_class = type(error) if isinstance(error, OSError) else ValueError
                raise error_class(f"item {index}: {error}" if len(items) > 1 else str(error)) from None
        ids = [self.pattern.apply(codes) for codes in self.encode_codes(waves)]
        num_samples = [len(wave) for wave in waves]
        return self.pad({"input_ids": ids, "num_samples": num_samples}, return_tensors)

    def pad(
        self, encodings: Mapping[str, Any] | Sequence[Mapping[str, Any]], return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Put sequences of ids into one batch.

        Args:
            encodings: `input_ids`, a list of sequences (L,), with `num_samples` if it is known; or a list of such
                mappings with one sequence each.
            return_tensors: as in `__call__`.

        Returns:
            As `__call__` returns it. An `attention_mask` in `encodings` is replaced.

        Raises:
            ValueError: There are no `input_ids`, or an unknown kind of tensors is asked for.
        """
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors must be 'pt', 'np' or None, found {return_tensors!r}")
        if not isinstance(encodings, Mapping):
            encodings = {key: [item[key] for item in encodings] for key in (encodings[0] if encodings else ())}
        if "input_ids" not in encodings or not len(encodings["input_ids"]):
            raise ValueError("pad needs input_ids, a list of one or more sequences of ids")
        rows = [torch.as_tensor(row).long().flatten() for row in encodings["input_ids"]]
        mask = [torch.ones_like(row) for row in rows]
        batch: dict[str, Any] = {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence(mask, batch_first=True),
        }
        if "num_samples" in encodings:
            batch["num_samples"] = torch.as_tensor(encodings["num_samples"]).flatten()
        if return_tensors is None:
            batch["input_ids"] = rows
            batch["attention_mask"] = mask
            batch = {key: [torch.as_tensor(value).tolist() for value in values] for key, values in batch.items()}
        if return_tensors == "np":
            batch = {key: value.numpy() for key, value in batch.items()}
        return BatchFeature(batch)

    def encode_codes(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Encode waveforms (T,) float32 at the codec's rate to codes (K, N) int64 each, on the CPU."""
        codes: list[Tensor] = [torch.empty(0)] * len(waves)
        for indices in group_items([len(wave) / self.sampling_rate for wave in waves], _BATCH_S):
            first = indices[0]
            if len(waves[first]) > MAX_WHOLE_S * self.sampling_rate:
                # An item of more than `_BATCH_S` is always alone in its batch.
                codes[first] = encode_long(self.codec, waves[first][None])[0].cpu()
                continue
            features = self.feature_extractor([waves[i] for i in indices], return_tensors="pt").to(self.device)
            out = self.codec.encode(features["input_values"], features["padding_mask"])
            batch_codes = out["audio_codes"].cpu()
            batch_mask = out["audio_codes_mask"].cpu()
            for row, i in enumerate(indices):
                codes[i] = batch_codes[row][:, batch_mask[row]]
        return codes

    # Ids -> audio.

    def decode(self, ids: Ids, num_samples: int | None = None) -> Waveform:
        """Decode one sequence of ids.

        Args:
            ids: (L,) or (1, L); an incomplete last frame is dropped.
            num_samples: as `__call__` returned it. The audio then has exactly this duration (it is cut, or its last
                sample is repeated), and ids beyond it count as padding.

        Returns:
            (T,) float32 at `output_sampling_rate`.

        Raises:
            ValueError: There is no id, or an id is not a code.
        """
        ids = torch.as_tensor(ids)
        batch = ids if ids.ndim == 2 else ids[None]
        return self.batch_decode(batch, num_samples=num_samples)[0]

    def batch_decode(
        self,
        ids: Tensor | NDArray[np.integer] | Sequence[Ids],
        attention_mask: Tensor | NDArray[np.integer] | Sequence[Ids] | None = None,
        num_samples: int | Sequence[int] | Tensor | None = None,
    ) -> list[Waveform]:
        """Decode several sequences of ids; see `decode`.

        Args:
            ids: (B, L), or a list of sequences of any lengths.
            attention_mask: (B, L), 1 where an id is real.
            num_samples: one for all, or one each.

        Returns:
            Waveforms (T,) float32 at `output_sampling_rate`.

        Raises:
            ValueError: An item has no ids, or an id is not a code.
        """
        rows = [torch.as_tensor(row).cpu() for row in ids]
        if attention_mask is not None:
            if len(attention_mask) != len(rows):
                raise ValueError(f"attention_mask needs one row per item, found {len(attention_mask)} for {len(rows)}")
            for i, mask in enumerate(attention_mask):
                rows[i] = rows[i][torch.as_tensor(mask).cpu().bool()]
        sizes: list[int | None] = [None] * len(rows)
        if num_samples is not None:
            sizes = torch.as_tensor(num_samples).expand(len(rows)).tolist()
        codes = [self._to_codes(row, sizes[i], i) for i, row in enumerate(rows)]
        waves: list[Waveform] = [np.empty(0, np.float32)] * len(rows)
        for indices in group_items([item.shape[1] / self.frame_rate for item in codes], _BATCH_S):
            decoded = self._decode_batch([codes[i] for i in indices], [sizes[i] for i in indices])
            for i, wave in zip(indices, decoded, strict=True):
                waves[i] = wave
        return waves

    def _to_codes(self, ids: Tensor, num_samples: int | None, index: int) -> Tensor:
        """Check the ids (L,) of an item and turn them into codes (K, N), without those beyond `num_samples`."""
        if ids.ndim != 1 or (len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool)):
            raise ValueError(f"ids of an item must be (L,) integers, found {tuple(ids.shape)} {ids.dtype}")
        ids = ids.long()
        if num_samples is not None:
            if num_samples < 1:
                raise ValueError(f"num_samples must be at least 1, found {num_samples}")
            ids = ids[: int(self.codec.num_tokens(num_samples)) * self.num_codebooks]
        if len(ids) < self.num_codebooks:
            raise ValueError(f"item {index} holds {len(ids)} ids, fewer than the {self.num_codebooks} of one frame")
        lowest = int(ids.min())
        highest = int(ids.max())
        if lowest < 0 or highest >= self.vocab_size:
            raise ValueError(
                f"ids must lie in 0 ... {self.vocab_size - 1}, found {lowest if lowest < 0 else highest} in item "
                f"{index}: subtract the vocabulary's audio offset, and remove control tokens, before decoding"
            )
        return self.pattern.revert(ids)

    def _decode_batch(self, codes: list[Tensor], sizes: list[int | None]) -> list[Waveform]:
        """Decode codes (K, N) in one batch; `sizes` are durations in input samples; None decodes all of an item."""
        config = self.codec.config
        if codes[0].shape[1] > MAX_WHOLE_S * config.frame_rate:
            # An item of more than `_BATCH_S` is always alone in its batch.
            return [decode_long(self.codec, codes[0][None], sizes[0])[0].numpy()]
        lengths = []
        for item, size in zip(codes, sizes, strict=True):
            lengths.append(item.shape[1] * config.samples_per_token if size is None else size)
        padded = pad_sequence([item.T for item in codes], batch_first=True).mT.to(self.device)
        mask = pad_sequence([torch.ones(item.shape[1], dtype=torch.bool) for item in codes], batch_first=True)
        out = self.codec.decode(padded, mask.to(self.device), torch.tensor(lengths, device=self.device))
        waves = []
        for wave, length in zip(out["audio_values"][:, 0].float().cpu().numpy(), lengths, strict=True):
            output_length = length * config.output_sampling_rate // config.sampling_rate
            waves.append(wave[:output_length].copy())
        return waves
