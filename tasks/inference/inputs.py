"""What users give to a task: a model, and recordings of any kind. T samples, K codebooks, N frames."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...lm import SpeechLM
from ...lm.templates import Template
from ...tokenizer import AudioTokenizer
from ...tokenizer.audio import is_batch, load_audio, with_rates
from ...tokenizer.long_audio import MAX_WHOLE_S

InputKind = Literal["features", "codes"]


def open_model(model: str | Path | SpeechLM, task: str = "tts") -> SpeechLM:
    """A folder or a hub id is loaded, `"mini"` is the weights in the package for the task; a loaded model is itself."""
    if isinstance(model, SpeechLM):
        return model
    return SpeechLM.from_pretrained("mini-rewriting" if str(model) == "mini" and task in ("se", "ss") else model)


def task_template(lm: SpeechLM, task: str, input_kind: InputKind | None = None) -> Template:
    """The template of a task that is given features or codes: features where the model can, unless it is said.

    Raises:
        ValueError: the model was not trained for it.
    """
    names = {"features": (f"{task}-features",), "codes": (task,), None: (f"{task}-features", task)}
    if input_kind not in names:
        raise ValueError(f"input_kind is 'features' or 'codes', found {input_kind!r}")
    return lm.info.template(*names[input_kind])


def load_waves(audio: Any, sampling_rate: int | list[int] | None, tokenizer: AudioTokenizer) -> list[Tensor]:
    """One recording or a list of recordings -> waveforms (T,) at the codec's rate.

    Args:
        audio: a path; a (T,), (C, T) or (T, C) array or tensor; a list of floats; a row of `datasets`,
            {"array", "sampling_rate"}; or a list of these.
        sampling_rate: in Hz, of what does not know its own; one for all, or one each.

    Raises:
        OSError: a file that is missing or cannot be read.
        ValueError: no rate, or empty, non-finite or wrongly shaped audio.
    """
    waves = []
    for index, (item, given) in enumerate(with_rates(audio, sampling_rate, "recording")):
        wave, rate = load_audio(item, given)
        if rate is None:
            raise ValueError(
                f"recording {index} is a {type(item).__name__}, which does not know its rate: give sampling_rate=..., "
                "in Hz"
            )
        waves.append(torch.from_numpy(tokenizer.feature_extractor.prepare(wave, rate)))
    return waves


def one_or_all(results: list[Any], given: Any) -> Any:
    """A list of results where a list was given, otherwise its only one."""
    return results if is_batch(given) else results[0]


def encode_ids(tokenizer: AudioTokenizer, waves: list[Tensor]) -> list[Tensor]:
    """Waveforms at the codec's rate -> ids (N * K,) each, as an LM reads them."""
    return [tokenizer.pattern.apply(codes) for codes in tokenizer.encode_codes(waves)]


def as_given(template: Template, tokenizer: AudioTokenizer, waves: list[Tensor]) -> list[dict[str, Any]]:
    """What a template's first segment says about each recording: its codes, or its features (N50, D)."""
    segment = template.segments[0]
    if segment.kind == "codes":
        return [{segment.field: ids} for ids in encode_ids(tokenizer, waves)]
    return [{segment.field: _features(tokenizer, wave)} for wave in waves]


def _features(tokenizer: AudioTokenizer, wave: Tensor) -> Tensor:
    """(T,) -> (N50, D), beyond `MAX_WHOLE_S` in pieces that see a little of their neighbours"""
    codec, hop = tokenizer.codec, tokenizer.codec.config.hop_length
    frames = round(MAX_WHOLE_S * tokenizer.sampling_rate / hop)
    pieces = []
    for start in range(0, len(wave), frames * hop):
        before = min(start, 4 * hop)
        piece = wave[start - before : start + (frames + 4) * hop].to(tokenizer.device)
        pieces.append(codec.extract_features(piece[None])[0, before // hop :][:frames].cpu())
    return torch.cat(pieces)[: int(codec.encoder.num_frames(torch.tensor(len(wave))))]
