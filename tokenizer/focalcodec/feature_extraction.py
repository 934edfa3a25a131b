"""Turn audio arrays into the inputs of `FocalCodecModel.encode`. B batch, T samples, C channels."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from ..waveform import Waveform, resample_input, to_mono_float, with_rates

logger = logging.get_logger(__name__)


class FocalCodecFeatureExtractor(SequenceFeatureExtractor):
    """Down-mixes, scales integer PCM, resamples, and pads at the end. Logs when it first down-mixes and resamples.

    Args:
        feature_size: number of channels; must be 1, since the codec is mono.
        sampling_rate: rate of the codec's input in Hz.
        padding_value: value of the samples after the end of shorter items.
        kwargs: options of `SequenceFeatureExtractor`.

    Raises:
        ValueError: `feature_size` is not 1.
    """

    model_input_names = ["input_values", "padding_mask"]  # noqa: RUF012 (as transformers declares it)

    def __init__(
        self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs: Any
    ) -> None:
        if feature_size != 1:
            raise ValueError(f"feature_size must be 1 (the codec is mono; channels are averaged), found {feature_size}")
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | list[int] | None = None,
    ) -> BatchFeature:
        """Prepare one waveform or a list of waveforms.

        Args:
            raw_audio: array or tensor, (T,), (C, T) or (T, C), where the smaller axis is that of the channels; or a
                list of them, of any lengths. Floats in [-1, 1], or int16, int32 or uint8 PCM.
            padding: True or "longest", "max_length", or False for lists of (1, T) and (T,) arrays of unequal lengths.
            truncation: whether to cut to `max_length`.
            max_length: length in samples at the codec's rate.
            return_tensors: "pt", or "np" (the default).
            sampling_rate: rate of the audio in Hz, one for all or one each; by default the codec's rate.

        Returns:
            input_values (B, 1, T) float32 and padding_mask (B, T) bool.

        Raises:
            ValueError: An item is empty, non-finite or wrongly shaped; the message says which.
        """
        items = with_rates(raw_audio, sampling_rate, "waveform")
        waves = []
        for index, (item, rate) in enumerate(items):
            try:
                waves.append(self.prepare(item, rate))
            except ValueError as error:
                raise ValueError(f"item {index}: {error}" if len(items) > 1 else str(error)) from None
        batch = BatchFeature({"input_values": waves})
        padded = self.pad(batch, padding, max_length, truncation, return_attention_mask=True)
        values = [value[None] for value in padded["input_values"]]
        masks = [mask.astype(bool) for mask in padded["attention_mask"]]
        if len({len(mask) for mask in masks}) > 1:
            # Without padding, items of unequal lengths stay a list.
            return BatchFeature({"input_values": values, "padding_mask": masks})
        stacked = {"input_values": np.stack(values), "padding_mask": np.stack(masks)}
        return BatchFeature(stacked, tensor_type=return_tensors)

    def prepare(self, wave: Any, sampling_rate: int | None = None) -> Waveform:
        """Prepare one waveform.

        Args:
            wave: array or tensor, (T,), (C, T) or (T, C).
            sampling_rate: in Hz; by default the codec's rate.

        Returns:
            (T,) float32, mono, at the codec's rate.

        Raises:
            ValueError: The audio is empty, non-finite or wrongly shaped.
        """
        array = wave if isinstance(wave, torch.Tensor) else np.asarray(wave)
        if array.ndim == 2 and min(array.shape) > 1:
            logger.warning_once("FocalCodecFeatureExtractor: the channels of the audio are averaged, the codec is mono")
        mono = to_mono_float(array)
        if sampling_rate is None or sampling_rate == self.sampling_rate:
            return mono
        logger.warning_once(
            f"FocalCodecFeatureExtractor: audio is resampled from {sampling_rate} Hz to {self.sampling_rate} Hz"
        )
        return resample_input(mono, sampling_rate, self.sampling_rate)
