"""Continue a recording of speech."""

import time
from pathlib import Path
from typing import Any

import torch

from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from .inputs import encode_ids, load_waves, open_model, unbatch
from .result import SpeechResult, speech_results


def continue_speech(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    seconds: float = 5.0,
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SpeechResult | list[SpeechResult]:
    """Generate speech that continues a recording.

    Args:
        audio: A path, array, tensor, list of floats or {"array", "sampling_rate"}; or a list of these.
        model: A folder, a hub id or a loaded `SpeechLM` that was trained for "continuation".
        seconds: The longest continuation. A model may stop earlier, but writes at least one frame.
        sampling_rate: Rate of arrays in Hz.
        sampling: How tokens are sampled.
        seed: Seed of the sampling; the same seed gives the same speech.

    Returns:
        The recording and its continuation, which begins at `stats["continuation_begins_s"]`. The recording is decoded
        from its tokens, too. `stop_reason` is "end", or "max_length" if the model did not stop.

    Raises:
        OSError: A file cannot be read.
        ValueError: The model was trained for other tasks, an array comes without its rate, or the audio is invalid or
            too long for the model.
    """
    lm = open_model(model)
    template = lm.info.template("continuation")
    tokenizer = lm.audio_tokenizer
    K = tokenizer.num_codebooks
    max_ids = round(seconds * tokenizer.frame_rate) * K
    if max_ids < 1:
        raise ValueError(
            f"a continuation has at least one frame, {1 / tokenizer.frame_rate:g} s, found seconds={seconds}"
        )
    waves = load_waves(audio, sampling_rate, tokenizer)
    start_time = time.perf_counter()
    recordings = encode_ids(tokenizer, waves)
    prompts = [template.prompt(lm.vocabulary, (K, max_ids), target_prefix=ids) for ids in recordings]
    generations = lm.generate(prompts, sampling=sampling, seed=[seed] * len(prompts))

    # Decode the recording and its continuation together, so that there is no seam.
    whole = []
    continuations = []
    stop_reasons = []
    for ids, generation in zip(recordings, generations, strict=True):
        whole.append(torch.cat([ids, generation.codes.cpu()]))
        continuations.append(generation.codes)
        stop_reasons.append(generation.stop_reason)
    audios = tokenizer.batch_decode(whole)
    results = speech_results(start_time, continuations, audios, tokenizer.output_sampling_rate, stop_reasons)
    for result, ids in zip(results, recordings, strict=True):
        result.stats["continuation_begins_s"] = len(ids) / tokenizer.tokens_per_second
    return unbatch(results, audio)
