"""`AudioTokenizer`: speech to token ids and back, with any codec. B batch, L ids, K codebooks, N frames, T samples."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature
from transformers.utils import FEATURE_EXTRACTOR_NAME

from .audio import Waveform, load_audio, with_rates
from .codec import Codec
from .codecs import CodePattern
from .codecs.auto import load_codec
from .files import whole_files
from .focalcodec import FocalCodecFeatureExtractor
from .long_audio import MAX_WHOLE_S, decode_long, encode_long

Ids = Tensor | NDArray[np.integer] | Sequence[int]

_BATCH_S = 120.0  # audio, padding included, that goes through the codec at once


class AudioTokenizer:
    """Speech <-> token ids.

    Ids are 0 ... vocab_size - 1. With K codebooks a frame is K ids, the codes of codebook k moved up by the sizes of
    those before it (see `CodePattern`). The ids of an item depend on its own samples only, never on the batch.

    Audio up to `MAX_WHOLE_S` (120 s) is encoded and decoded in one pass. Longer audio goes through in windows with 10 s
    of context on both sides: exact (streamed) for causal FocalCodecs, an approximation for every other codec.

    Args:
        codec: a `FocalCodecModel`, or an adapter of `tokenizer.codecs`.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        c = codec.config
        self.feature_extractor = FocalCodecFeatureExtractor(sampling_rate=c.sampling_rate)
        self.pattern = CodePattern(c.codebook_sizes)

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "mini", num_codebooks: int | None = None, **kwargs: Any
    ) -> "AudioTokenizer":
        """Load a codec, whichever it is.

        Args:
            source: `"mini"` (the small FocalCodec inside the package), a folder, or a hub id; FocalCodec in our layout
                or in the official one, or another codec as transformers (EnCodec, DAC, Mimi, X-Codec2, NeuCodec) or
                its authors lay it out; `"semanticodec"`, with the options of `SemantiCodecConfig` as kwargs.
            num_codebooks: of a codec with several, how many to use; by default as many as were saved, or else as
                transformers does (EnCodec 2, DAC and Mimi all).
            kwargs: as in transformers (`revision`, `cache_dir`, `token`, `dtype`, ...).

        Raises:
            OSError: nothing there, or no safetensors weights.
            ValueError: an unknown codec, or weights that do not fit.
        """
        return cls(load_codec(source, num_codebooks, **kwargs))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` and the Auto classes of transformers open; each file appears whole."""
        folder = Path(folder)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file: name a folder")
        with whole_files(folder) as temporary:
            self.codec.save_pretrained(temporary)
            # Adapters save the feature extractor that transformers has for their codec.
            if not (temporary / FEATURE_EXTRACTOR_NAME).exists():
                self.feature_extractor.save_pretrained(temporary)

    def push_to_hub(self, repo: str, **kwargs: Any) -> str:
        """Upload to the Hugging Face hub; creates the repository where it is missing.

        Args:
            repo: `"owner/name"`.
            kwargs: `token`, `private`; `commit_message`, `revision`, `create_pr` as in `HfApi.upload_folder`.

        Returns:
            The address of the commit.
        """
        api = HfApi(token=kwargs.pop("token", None))
        api.create_repo(repo, private=kwargs.pop("private", None), exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, **kwargs))

    # What a language model has to know.

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
        """Codes of one codebook, of the largest where they differ."""
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
        """Bitrate of the ids."""
        return self.frame_rate * sum(map(math.log2, self.codebook_sizes))

    @property
    def sampling_rate(self) -> int:
        """Rate of the codec's input in Hz; `num_samples` counts at this rate."""
        return self.codec.config.sampling_rate

    @property
    def output_sampling_rate(self) -> int:
        """Rate of decoded audio in Hz."""
        return self.codec.config.output_sampling_rate

    @property
    def device(self) -> torch.device:
        """Where the codec is."""
        return self.codec.device

    def to(self, device: str | torch.device) -> "AudioTokenizer":
        """Move the codec."""
        self.codec.to(device)
        return self

    # Audio -> ids.

    def __call__(self, audio: Any, sampling_rate: int | list[int] | None = None) -> BatchFeature:
        """Encode one item or a list of items.

        An item is a path; an array or tensor, (T,), (C, T) or (T, C), of floats in [-1, 1] or int16, int32, uint8 PCM;
        a row of `datasets`, {"array", "sampling_rate"}, {"bytes", "path"} or {"path"}; or a torchcodec `AudioDecoder`.
        A list may mix them, their lengths and their rates. Channels are averaged.

        Args:
            audio: an item, or a list of items.
            sampling_rate: of the arrays and tensors, in Hz, one for all or one each; files and rows know their own.
                Without it arrays are taken to be at the codec's `sampling_rate`.

        Returns:
            input_ids (B, L) int64, attention_mask (B, L) int64, and num_samples (B,) at the codec's `sampling_rate`,
            for `decode`. All in the CPU's memory; ids of padding are 0.

        Raises:
            OSError: a file that is missing or cannot be read.
            ValueError: empty, non-finite or wrongly shaped audio; the message says which item.
        """
        items = with_rates(audio, sampling_rate)
        waves = []
        for index, (item, rate) in enumerate(items):
            try:
                waves.append(torch.from_numpy(self.feature_extractor.prepare(*load_audio(item, rate))))
            except (ValueError, OSError) as error:
                kind = type(error) if isinstance(error, OSError) else ValueError
                raise kind(f"item {index}: {error}" if len(items) > 1 else str(error)) from None
        ids = [self.pattern.apply(codes) for codes in self.encode_codes(waves)]
        return BatchFeature(
            {
                "input_ids": pad_sequence(ids, batch_first=True),
                "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
                "num_samples": torch.tensor([len(wave) for wave in waves]),
            }
        )

    def encode_codes(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (T,) float32 at the codec's rate -> codes (K, N) int64 each, in the CPU's memory."""
        codes: list[Tensor] = [torch.empty(0)] * len(waves)
        for batch in _batches([len(wave) / self.sampling_rate for wave in waves]):
            if len(waves[batch[0]]) > MAX_WHOLE_S * self.sampling_rate:
                codes[batch[0]] = encode_long(self.codec, waves[batch[0]][None])[0].cpu()
                continue
            features = self.feature_extractor([waves[i] for i in batch], return_tensors="pt").to(self.device)
            out = self.codec.encode(features["input_values"], features["padding_mask"])
            for i, item, mask in zip(batch, out["audio_codes"].cpu(), out["audio_codes_mask"].cpu(), strict=True):
                codes[i] = item[:, mask]
        return codes

    # Ids -> audio.

    def decode(self, ids: Ids, num_samples: int | None = None) -> Waveform:
        """One sequence of ids -> audio (T,) float32 at `output_sampling_rate`.

        Args:
            ids: (L,) or (1, L); an incomplete last frame is dropped.
            num_samples: as `__call__` gave it. The audio then lasts exactly as long (cut, or its last sample repeated),
                and ids beyond that duration are taken for padding.

        Raises:
            ValueError: no id, or an id that is no code.
        """
        ids = torch.as_tensor(ids)
        return self.batch_decode(ids if ids.ndim == 2 else ids[None], num_samples=num_samples)[0]

    def batch_decode(
        self,
        ids: Tensor | NDArray[np.integer] | Sequence[Ids],
        attention_mask: Tensor | NDArray[np.integer] | Sequence[Ids] | None = None,
        num_samples: int | Sequence[int] | Tensor | None = None,
    ) -> list[Waveform]:
        """Several sequences of ids, (B, L) or a list of any lengths, -> a list of (T,) float32; see `decode`.

        Args:
            attention_mask: (B, L), where ids are real.
            num_samples: one for all, or one each.
        """
        rows = [torch.as_tensor(row).cpu() for row in ids]
        if attention_mask is not None:
            rows = [row[torch.as_tensor(m).cpu().bool()] for row, m in zip(rows, attention_mask, strict=True)]
        sizes: list[int | None] = [None] * len(rows)
        if num_samples is not None:
            sizes = torch.as_tensor(num_samples).expand(len(rows)).tolist()
        codes = [self._to_codes(row, size, index) for index, (row, size) in enumerate(zip(rows, sizes, strict=True))]
        waves: list[Waveform] = [np.empty(0, np.float32)] * len(rows)
        for batch in _batches([item.shape[1] / self.frame_rate for item in codes]):
            for i, wave in zip(
                batch, self._decode_batch([codes[i] for i in batch], [sizes[i] for i in batch]), strict=True
            ):
                waves[i] = wave
        return waves

    def _to_codes(self, ids: Tensor, num_samples: int | None, index: int) -> Tensor:
        """(L,) -> (K, N), without what lies beyond num_samples"""
        if ids.ndim != 1 or (len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool)):
            raise ValueError(f"ids of an item must be (L,) integers, found {tuple(ids.shape)} {ids.dtype}")
        ids = ids.long()
        if num_samples is not None:
            if num_samples < 1:
                raise ValueError(f"num_samples must be at least 1, found {num_samples}")
            ids = ids[: int(self.codec.num_tokens(num_samples)) * self.num_codebooks]
        if len(ids) < self.num_codebooks:
            raise ValueError(f"item {index} holds {len(ids)} ids, less than the {self.num_codebooks} of one frame")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"ids must lie in 0 ... {self.vocab_size - 1}, found {low if low < 0 else high} in item {index}: "
                "subtract the vocabulary's audio offset, and remove control tokens, before decoding"
            )
        return self.pattern.revert(ids)

    def _decode_batch(self, codes: list[Tensor], sizes: list[int | None]) -> list[Waveform]:
        """Codes (K, N) of one batch; the durations in input samples, None for all of an item."""
        c = self.codec.config
        if codes[0].shape[1] > MAX_WHOLE_S * c.frame_rate:
            return [decode_long(self.codec, codes[0][None], sizes[0])[0].numpy()]
        lengths = [
            item.shape[1] * c.samples_per_token if n is None else n for item, n in zip(codes, sizes, strict=True)
        ]
        padded = pad_sequence([item.T for item in codes], batch_first=True).mT.to(self.device)
        mask = pad_sequence([torch.ones(item.shape[1], dtype=torch.bool) for item in codes], batch_first=True)
        out = self.codec.decode(padded, mask.to(self.device), torch.tensor(lengths, device=self.device))
        waves = out["audio_values"][:, 0].float().cpu().numpy()
        return [
            wave[: n * c.output_sampling_rate // c.sampling_rate].copy() for wave, n in zip(waves, lengths, strict=True)
        ]


def _batches(durations_s: Sequence[float]) -> Iterator[list[int]]:
    """Indices in batches of similar durations, at most `_BATCH_S` of padded audio each, longest first."""
    batch: list[int] = []
    for i in sorted(range(len(durations_s)), key=lambda i: -durations_s[i]):
        if batch and (len(batch) + 1) * durations_s[batch[0]] > _BATCH_S:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
