"""Generate speech from speech, frame by frame: the common part of enhancement, separation and conversion.

The output has as many token frames as the input. Recordings longer than `WINDOW_S` are processed in windows, each of
which continues the output of the window before. Shapes: T samples, N token frames, K codebooks, D feature width.
"""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lm.features import max_positions
from ...lm.generation import StopReason
from ...lm.model import SpeechLM
from ...lm.sampling import Sampling, generation_defaults
from ...lm.templates import Prompt, Template
from ...tokenizer import AudioTokenizer
from ...tokenizer.long_audio import MAX_WHOLE_S
from .result import SpeechResult, speech_results

WINDOW_S = 10.0  # models are trained on short recordings, so they do not read more at once
_OVERLAP_S = 2.0  # the end of the output so far, with which the next window begins
_MIN_WINDOW_FRAMES = 4
_CONTEXT_FRAMES = 4  # on both sides of a piece of a long recording, whose features are computed piece by piece


def transform_speech(
    lm: SpeechLM,
    template: Template,
    waves: list[Tensor],
    streams: int = 1,
    shared_fields: dict[str, Any] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> list[SpeechResult]:
    """Generate speech from each recording, with exactly its duration.

    Args:
        lm: The model.
        template: The template of the task, whose first segment is the recording.
        waves: Recordings (T,) at the rate of the codec.
        streams: Number of signals to generate from each recording.
        shared_fields: Values of the other fields of the template, the same for all recordings.
        sampling: How tokens are sampled; by default as suits the template.
        seed: Seed of the sampling.

    Returns:
        For each recording audio (T,), or (streams, T) if the target of the template has streams.
    """
    start_time = time.perf_counter()
    tokenizer = lm.audio_tokenizer
    fields = []
    num_frames = []
    for wave, item_fields in zip(waves, input_fields(template, tokenizer, waves), strict=True):
        fields.append({**item_fields, **(shared_fields or {})})
        num_frames.append(int(tokenizer.codec.num_tokens(len(wave))))
    generated = generate_frames(lm, template, fields, num_frames, streams, sampling, seed)

    # All streams of all recordings are decoded in one batch.
    rows: list[Tensor] = []
    num_samples: list[int] = []
    for wave, item_ids in zip(waves, generated, strict=True):
        rows += item_ids.unbind()
        num_samples += [len(wave)] * streams
    decoded = tokenizer.batch_decode(rows, num_samples=num_samples)
    audios = []
    for first in range(0, len(decoded), streams):
        if template.target.streams:
            audios.append(np.stack(decoded[first : first + streams]))
        else:
            audios.append(decoded[first])
    stop_reasons: list[StopReason] = ["constraint"] * len(waves)
    return speech_results(start_time, generated, audios, tokenizer.output_sampling_rate, stop_reasons)


def generate_frames(
    lm: SpeechLM,
    template: Template,
    fields: list[dict[str, Any]],
    num_frames: list[int],
    streams: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Generate as many frames as each item has, window by window.

    Args:
        lm: The model.
        template: The template of the task.
        fields: For each item the values of the fields of the template. That of the first segment has the same time axis
            as the output and is cut into windows; the others are given to every window.
        num_frames: N of each item.
        streams: Number of spans of N frames to generate.
        sampling: How tokens are sampled; by default as suits the template.
        seed: Seed of the sampling.

    Returns:
        For each item the ids of the codec (streams, N * K).
    """
    K = lm.audio_tokenizer.num_codebooks
    sampling = sampling or generation_defaults(template, lm.code_bits)
    outputs = [torch.empty(streams, 0, dtype=torch.long) for _ in num_frames]
    unfinished = list(range(len(num_frames)))
    window_index = 0
    while unfinished:
        prompts = []
        for i in unfinished:
            prompts.append(_window_prompt(lm, template, fields[i], num_frames[i], outputs[i]))
        # Each window has its own seed, which does not depend on the other items of the batch.
        generations = lm.generate(prompts, sampling=sampling, seed=[seed + window_index] * len(prompts))
        still_unfinished = []
        for i, prompt, generation in zip(unfinished, prompts, generations, strict=True):
            # Streams after the first begin with the overlap, which the prompt cannot give them.
            num_new = prompt.phases[0].max_length
            new = torch.stack([span[-num_new:].cpu() for span in generation.spans])
            outputs[i] = torch.cat([outputs[i], new], dim=1)
            if outputs[i].shape[1] < num_frames[i] * K:
                still_unfinished.append(i)
        unfinished = still_unfinished
        window_index += 1
    return outputs


def _window_prompt(lm: SpeechLM, template: Template, fields: dict[str, Any], num_frames: int, output: Tensor) -> Prompt:
    """Return the prompt of the window that continues an output.

    Args:
        lm: The model.
        template: The template of the task.
        fields: Values of its fields.
        num_frames: N of the whole recording.
        output: Ids (streams, n * K) of the n frames that were generated before.
    """
    K = lm.audio_tokenizer.num_codebooks
    frame_rate = lm.audio_tokenizer.frame_rate
    streams = len(output)
    num_done = output.shape[1] // K
    shared_fields = dict(fields)
    recording = shared_fields.pop(template.segments[0].field)
    # Features come at 50 Hz, tokens perhaps at a lower rate.
    input_per_frame = math.ceil(len(recording) / num_frames)

    # The window is as long as the positions of the model allow.
    num_other_ids = len(template.segments) + streams
    for value in shared_fields.values():
        num_other_ids += len(value)
    free_positions = max_positions(lm.model) - num_other_ids
    size = min(round(WINDOW_S * frame_rate), free_positions // (input_per_frame + streams * K))
    if size < _MIN_WINDOW_FRAMES:
        raise ValueError(
            f"the model's {max_positions(lm.model)} positions hold too little of a recording beside {num_other_ids} "
            "other ids: give a shorter reference, or train a model with more positions"
        )
    overlap = min(round(_OVERLAP_S * frame_rate), size // 4)
    start = max(0, num_done - overlap)
    end = min(num_frames, start + size)
    num_ids = (end - start) * K
    prompt = template.prompt(
        lm.vocabulary,
        (num_ids, num_ids),
        streams,
        target_prefix=output[0, start * K :] if num_done else None,
        **{template.segments[0].field: recording[start * input_per_frame : end * input_per_frame]},
        **shared_fields,
    )
    # The first stream has its overlap in the prompt, so it needs only the new frames.
    num_new = (end - num_done) * K
    first_phase = replace(prompt.phases[0], min_length=num_new, max_length=num_new)
    return replace(prompt, phases=(first_phase, *prompt.phases[1:]))


def input_fields(template: Template, tokenizer: AudioTokenizer, waves: list[Tensor]) -> list[dict[str, Any]]:
    """Return the field of the first segment of a template for each recording: its codes or its features (N50, D)."""
    segment = template.segments[0]
    if segment.kind == "codes":
        values = [tokenizer.pattern.apply(codes) for codes in tokenizer.encode_codes(waves)]
    else:
        values = [_extract_features(tokenizer, wave) for wave in waves]
    return [{segment.field: value} for value in values]


def _extract_features(tokenizer: AudioTokenizer, wave: Tensor) -> Tensor:
    """Compute features (N50, D) of a waveform (T,); beyond `MAX_WHOLE_S` in pieces, to bound the memory."""
    # Only a FocalCodec has features; the protocol of all codecs does not include them.
    codec: Any = tokenizer.codec
    hop = codec.config.hop_length
    frames = round(MAX_WHOLE_S * tokenizer.sampling_rate / hop)
    pieces = []
    for start in range(0, len(wave), frames * hop):
        # Each piece is encoded with a few frames of context, which are cut off again.
        context = min(start, _CONTEXT_FRAMES * hop)
        piece = wave[start - context : start + (frames + _CONTEXT_FRAMES) * hop].to(tokenizer.device)
        features = codec.extract_features(piece[None])[0, context // hop :]
        pieces.append(features[:frames].cpu())
    num_frames = int(codec.encoder.num_frames(torch.tensor(len(wave))))
    return torch.cat(pieces)[:num_frames]
