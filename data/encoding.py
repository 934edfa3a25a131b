"""Examples -> rows of a token store, through a codec. T samples, N50 feature frames, D feature width."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..tokenizer.audio import Waveform
from ..tokenizer.focalcodec import FocalCodecModel
from ..tokenizer.long_audio import MAX_WHOLE_S
from .example import Example

if TYPE_CHECKING:
    from ..tokenizer.audio_tokenizer import AudioTokenizer

Row = dict[str, Any]  # column -> value


class Encoder:
    """Encodes examples.

    Args:
        tokenizer: the codec.
        heard: prefix of the columns of what a model hears: "noisy", "mixture", "source"; None if nothing was mixed.
        features: store the codec's continuous features of what a model hears, too.

    Raises:
        ValueError: features of a codec that has none.
    """

    def __init__(self, tokenizer: "AudioTokenizer", heard: str | None = None, features: bool = False) -> None:
        if features and not isinstance(tokenizer.codec, FocalCodecModel):
            raise ValueError(
                f"features are the output of FocalCodec's encoder, and this codec is a {type(tokenizer.codec).__name__}"
                ": leave them out, or name a FocalCodec"
            )
        self.tokenizer, self.heard = tokenizer, heard
        self.features = f"{heard}_features" if heard else "features"
        self.feature_dim: int | None = tokenizer.codec.config.encoder_config.dim if features else None

    def __call__(self, examples: list[Example]) -> list[Row | str]:
        """-> for each example its row, or why there is none"""
        if not examples:
            return []
        try:
            codes = self._encode([signal for example in examples for signal in example.signals])
            return [self._row(example, [next(codes) for _ in example.signals]) for example in examples]
        except ValueError as error:
            # One signal that the codec refuses must not take its batch along.
            if len(examples) == 1:
                return [" ".join(str(error).split())]
            return [row for example in examples for row in self([example])]

    def _encode(self, waves: list[Waveform]) -> Iterator[NDArray[Any]]:
        encoded = self.tokenizer(waves, sampling_rate=self.tokenizer.sampling_rate)
        ids, masks = encoded["input_ids"].cpu().numpy(), encoded["attention_mask"].cpu().numpy().astype(bool)
        return iter([row[mask] for row, mask in zip(ids, masks, strict=True)])

    def _row(self, example: Example, codes: list[NDArray[Any]]) -> Row:
        item = example.item
        row: Row = {"id": item.id, "codes": codes[0], "num_samples": len(example.target)}
        if example.heard is not None:
            row[f"{self.heard}_codes"] = codes[1]
        if example.others:
            row["sources"] = [codes[0], *codes[2:]]
        if self.feature_dim is not None:
            row[self.features] = self._extract(example.target if example.heard is None else example.heard)
        return {**item.extra, **row, "text": item.text, "speaker": item.speaker, **example.facts}

    def _extract(self, wave: Waveform) -> NDArray[np.float16]:
        """(T,) -> (N50, D). Alone, because padding may move a feature by a rounding, and then the bytes of a store."""
        if len(wave) > MAX_WHOLE_S * self.tokenizer.sampling_rate:
            raise ValueError(f"features need audio of at most {MAX_WHOLE_S:.0f} s: cut it first")
        values = torch.from_numpy(wave)[None].to(self.tokenizer.device)
        return self.tokenizer.codec.extract_features(values)[0].half().cpu().numpy()
