"""Load models and recordings for the tasks. Shapes: T samples, N token frames, K codebooks."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.utils import CONFIG_NAME

from ...lm.model import SpeechLM
from ...lm.templates import Template
from ...tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel
from ...tokenizer.audio import load_audio
from ...tokenizer.configs import read_json
from ...tokenizer.focalcodec.denoising import DenoisingEncoder
from ...tokenizer.waveform import is_batch, with_rates
from ..definitions import TASKS

logger = logging.getLogger(__name__)

InputKind = Literal["features", "codes"]

_MIN_REFERENCE_S = 0.1
_SILENT_PEAK = 1e-3  # 60 dB below full scale, where a recording has only noise


def open_model(model: str | Path | SpeechLM, task: str = "tts") -> SpeechLM:
    """Load a model from a folder or a hub id. A loaded model is returned unchanged.

    Args:
        model: `"mini"` means the weights in the package for the task.
        task: A name in `TASKS`.
    """
    if isinstance(model, SpeechLM):
        return model
    # The package has separate weights for tasks that the default model was not trained on.
    if str(model) == "mini":
        return SpeechLM.from_pretrained(TASKS[task].packaged_model)
    return SpeechLM.from_pretrained(model)


def open_enhancer(model: str | Path | SpeechLM | AudioTokenizer) -> SpeechLM | AudioTokenizer:
    """Load what can enhance a recording: a language model, or the tokenizer of a codec with a denoising encoder.

    Raises:
        ValueError: It is a codec without a denoising encoder.
    """
    if isinstance(model, str | Path):
        config = Path(model) / CONFIG_NAME
        if not config.is_file() or read_json(config).get("model_type") != FocalCodecConfig.model_type:
            return open_model(model, "se")
        model = AudioTokenizer.from_pretrained(model)
    if isinstance(model, SpeechLM):
        return model
    codec = model.codec.pretrained_model
    if not isinstance(codec, FocalCodecModel) or not isinstance(codec.encoder, DenoisingEncoder):
        raise ValueError(
            "this codec keeps the noise of a recording: name one whose encoder is of type denoising "
            "(configs/codec/denoising.yaml), or a language model trained for se"
        )
    return model


def task_template(lm: SpeechLM, task: str, input_kind: InputKind | None = None) -> Template:
    """Return the template of a task that reads features or codes.

    Args:
        lm: The model.
        task: Name of the task that reads codes; with "-features" added, that of the one that reads features.
        input_kind: What to read; by default features if the model was trained on them, otherwise codes.

    Raises:
        ValueError: The model was not trained for the task.
    """
    if input_kind is None:
        return lm.info.template(f"{task}-features", task)
    if input_kind == "features":
        return lm.info.template(f"{task}-features")
    if input_kind == "codes":
        return lm.info.template(task)
    raise ValueError(f"input_kind is 'features' or 'codes', found {input_kind!r}")


def load_waves(audio: Any, sampling_rate: int | list[int] | None, tokenizer: AudioTokenizer) -> list[Tensor]:
    """Load one recording or a list of recordings as waveforms (T,) at the rate of the codec.

    Args:
        audio: A path; a (T,), (C, T) or (T, C) array or tensor; a list of floats; a row of `datasets`,
            {"array", "sampling_rate"}; or a list of these.
        sampling_rate: Rate in Hz of recordings without a rate, such as arrays; one for all, or one each.
        tokenizer: The tokenizer of the model.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: A rate is missing, or the audio is empty, not finite or of a wrong shape.
    """
    waves = []
    for index, (item, item_rate) in enumerate(with_rates(audio, sampling_rate, "recording")):
        wave, rate = load_audio(item, item_rate)
        if rate is None:
            raise ValueError(
                f"recording {index} is a {type(item).__name__}, which has no sampling rate: pass sampling_rate=..., "
                "in Hz"
            )
        waves.append(torch.from_numpy(tokenizer.feature_extractor.prepare(wave, rate)))
    return waves


def join_references(waves: list[Tensor], rate: int, max_s: float) -> Tensor:
    """Join recordings of a voice to one, of which only the first seconds are kept. A longer one is logged.

    Args:
        waves: Recordings (T,).
        rate: Their rate in Hz.
        max_s: How many seconds to keep.

    Returns:
        Waveform (T,).

    Raises:
        ValueError: The recordings are too short for a voice, or silent.
    """
    voice = torch.cat(waves)
    seconds = len(voice) / rate
    if seconds < _MIN_REFERENCE_S:
        raise ValueError(
            f"the reference lasts {1000 * seconds:.0f} ms, which is too short to hear a voice: give a few seconds of "
            "speech"
        )
    voice = voice[: round(max_s * rate)]
    if (voice - voice.mean()).abs().max() < _SILENT_PEAK:
        raise ValueError(
            f"the reference is silent in its first {len(voice) / rate:.1f} s: give a recording in which the voice "
            "speaks from the start"
        )
    if seconds > max_s:
        logger.warning("the reference lasts %.1f s, of which the first %g s are used", seconds, max_s)
    return voice


def unbatch(results: list[Any], audio: Any) -> Any:
    """Return all results if the input was a list of recordings, otherwise the only result."""
    return results if is_batch(audio) else results[0]


def encode_ids(tokenizer: AudioTokenizer, waves: list[Tensor]) -> list[Tensor]:
    """Encode waveforms at the rate of the codec to ids (N * K,), in the order in which an LM reads them."""
    return [tokenizer.pattern.apply(codes) for codes in tokenizer.encode_codes(waves)]
