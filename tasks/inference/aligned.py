"""Writing speech again, frame for frame: what enhancement, separation and conversion share. K codebooks, N frames."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lm import Sampling, SpeechLM
from ...lm.answering import usual_sampling
from ...lm.length import positions
from ...lm.templates import Prompt, Template
from .inputs import as_given
from .result import SpeechResult, measure

WINDOW_S = 10.0  # of a recording that a model sees at once; models learn from short recordings
_BEGUN_S = 2.0  # the end of what was written that a further window begins with


def rewrite(
    lm: SpeechLM,
    template: Template,
    waves: list[Tensor],
    streams: int = 1,
    others: dict[str, Any] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> list[SpeechResult]:
    """Write each recording again, exactly as long as it is.

    Args:
        template: its first segment is the recording.
        waves: (T,) each, at the codec's rate.
        streams: how many signals to write for each.
        others: values of the template's other fields, the same for all.

    Returns:
        Audio (T,), or (streams, T) where streams are asked for.
    """
    began, tokenizer = time.perf_counter(), lm.audio_tokenizer
    given = [{**own, **(others or {})} for own in as_given(template, tokenizer, waves)]
    frames = [int(tokenizer.codec.num_tokens(len(wave))) for wave in waves]
    written = write_aligned(lm, template, given, frames, streams, sampling, seed)
    sizes = [len(wave) for wave in waves for _ in range(streams)]
    decoded = tokenizer.batch_decode([row for ids in written for row in ids], num_samples=sizes)
    audios = [np.stack(decoded[i : i + streams]) for i in range(0, len(decoded), streams)]
    rate = tokenizer.output_sampling_rate
    stats = measure(began, [ids.numel() for ids in written], [audio.shape[1] / rate for audio in audios])
    return [
        SpeechResult(audio if template.target.streams else audio[0], rate, "constraint", figures)
        for audio, figures in zip(audios, stats, strict=True)
    ]


def write_aligned(
    lm: SpeechLM,
    template: Template,
    given: list[dict[str, Any]],
    frames: list[int],
    streams: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Write as many frames as each item has; long items window by window, each beginning with the end of the last.

    Args:
        given: of each item, the fields of the template. The first segment's runs along with what is written, and is cut
            into windows; others are given to every window.
        frames: N of each item.
        streams: spans of N frames to write.

    Returns:
        (streams, N * K) ids of the codec for each item.
    """
    K, sampling = lm.audio_tokenizer.num_codebooks, sampling or usual_sampling(lm, template)
    written = [torch.empty(streams, 0, dtype=torch.long) for _ in frames]
    windows = 0
    while unfinished := [i for i, n in enumerate(frames) if written[i].shape[1] < n * K]:
        prompts = [_window(lm, template, given[i], frames[i], written[i]) for i in unfinished]
        generations = lm.generate(prompts, sampling=sampling, seed=[seed + windows] * len(prompts))
        for i, prompt, generation in zip(unfinished, prompts, generations, strict=True):
            new = prompt.phases[0].most  # later streams write what was begun again
            written[i] = torch.cat([written[i], torch.stack([span[-new:].cpu() for span in generation.spans])], dim=1)
        windows += 1
    return written


def _window(lm: SpeechLM, template: Template, given: dict[str, Any], frames: int, written: Tensor) -> Prompt:
    """The prompt of the window after `written` (streams, done * K)"""
    K, streams = lm.audio_tokenizer.num_codebooks, len(written)
    done = written.shape[1] // K
    along = template.segments[0].field
    value, others = given[along], {field: v for field, v in given.items() if field != along}
    per_frame = -(-len(value) // frames)  # features come at 50 Hz, tokens perhaps more slowly
    taken = sum(map(len, others.values())) + len(template.segments) + streams
    room = positions(lm.model) - taken
    size = min(round(WINDOW_S * lm.audio_tokenizer.frame_rate), room // (per_frame + streams * K))
    if size < 4:
        raise ValueError(
            f"the model's {positions(lm.model)} positions hold too little of a recording beside {taken} other ids: "
            "give a shorter reference, or train a model with more positions"
        )
    start = max(0, done - min(round(_BEGUN_S * lm.audio_tokenizer.frame_rate), size // 4))
    end = min(frames, start + size)
    prompt = template.prompt(
        lm.vocabulary,
        ((end - start) * K,) * 2,
        streams,
        begun=written[0, start * K :] if done else None,
        **{along: value[start * per_frame : end * per_frame], **others},
    )
    new = (end - done) * K
    return replace(prompt, phases=(replace(prompt.phases[0], fewest=new, most=new), *prompt.phases[1:]))
