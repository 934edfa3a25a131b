"""How speech could go on."""

import time
from pathlib import Path
from typing import Any

import torch

from ...lm import Sampling, SpeechLM
from .inputs import encode_ids, load_waves, one_or_all, open_model
from .result import SpeechResult, measure


def continue_speech(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    seconds: float = 5.0,
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SpeechResult | list[SpeechResult]:
    """Let a model go on where a recording ends.

    Args:
        audio: a path, array, tensor, list of floats or {"array", "sampling_rate"}; or a list of these.
        model: a folder, a hub id or a loaded `SpeechLM` that was trained for "continuation".
        seconds: at most so much more; a model may end before, but says something.
        sampling_rate: of arrays, in Hz.
        sampling: how tokens are drawn.
        seed: the same seed gives the same speech.

    Returns:
        The recording, as the codec renders it so that no seam is heard, and the continuation, which begins at
        `stats["continuation_begins_s"]`. `stop_reason` is "end", or "length" if it went on to the last.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a model of another task, an array without its rate, audio that is none, or too long for the model.
    """
    lm = open_model(model)
    template, tokenizer = lm.info.template("continuation"), lm.audio_tokenizer
    K, rate = tokenizer.num_codebooks, tokenizer.output_sampling_rate
    most = round(seconds * tokenizer.frame_rate) * K
    if most < 1:
        raise ValueError(f"a continuation lasts at least one frame, {1 / tokenizer.frame_rate:g} s, found {seconds} s")
    waves = load_waves(audio, sampling_rate, tokenizer)
    began = time.perf_counter()
    begun = encode_ids(tokenizer, waves)
    prompts = [template.prompt(lm.vocabulary, (K, most), begun=ids) for ids in begun]
    generations = lm.generate(prompts, sampling=sampling, seed=[seed] * len(prompts))
    audios = tokenizer.batch_decode(
        [torch.cat([ids, g.codes.cpu()]) for ids, g in zip(begun, generations, strict=True)]
    )
    stats = measure(began, [len(g.codes) for g in generations], [len(wave) / rate for wave in audios])
    results = []
    for ids, generation, wave, figures in zip(begun, generations, audios, stats, strict=True):
        figures["continuation_begins_s"] = len(ids) / tokenizer.tokens_per_second
        results.append(SpeechResult(wave, rate, generation.stop_reason, figures))
    return one_or_all(results, audio)
