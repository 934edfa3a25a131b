"""Remove noise and reverberation from speech."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from ...tokenizer.waveform import Waveform, resample
from .inputs import InputKind, load_waves, open_model, task_template, unbatch
from .result import SpeechResult
from .speech_to_speech import transform_speech


def enhance(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    input_kind: InputKind | None = None,
    dry: float = 0.0,
) -> SpeechResult | list[SpeechResult]:
    """Clean a noisy recording. The result has exactly its duration, at the output rate of the codec.

    Args:
        audio: A path, array, tensor, list of floats or {"array", "sampling_rate"}, of any length; or a list of these.
            Recordings of more than 10 s are processed in overlapping windows.
        model: A folder, a hub id or a loaded `SpeechLM` that was trained for "se" or "se-features".
        sampling_rate: Rate of arrays in Hz.
        sampling: How tokens are sampled; by default as suits the task.
        seed: Seed of the sampling.
        input_kind: What the model reads, the "features" or the "codes" of the recording; by default features if it can.
        dry: Share of the input in the result, from 0 to 1: (1 - dry) * enhanced + dry * noisy. Some noise then covers
            what the model gets wrong (observation adding, arXiv 2201.06685).

    Raises:
        OSError: A file cannot be read.
        ValueError: The model was trained for other tasks, an array comes without its rate, the audio is invalid, or
            `dry` is not from 0 to 1.
    """
    if not 0 <= dry <= 1:
        raise ValueError(f"dry is the share of the input in the result, from 0 to 1, found {dry}")
    lm = open_model(model, "se")
    template = task_template(lm, "se", input_kind)
    waves = load_waves(audio, sampling_rate, lm.audio_tokenizer)
    results = transform_speech(lm, template, waves, sampling=sampling, seed=seed)
    if dry:
        for i, (wave, result) in enumerate(zip(waves, results, strict=True)):
            results[i] = add_input(result, wave.numpy(), lm.audio_tokenizer.sampling_rate, dry)
    return unbatch(results, audio)


def add_input(result: SpeechResult, noisy: Waveform, sampling_rate: int, dry: float) -> SpeechResult:
    """Return (1 - dry) * enhanced + dry * noisy, at the rate of the result.

    Args:
        result: Enhanced recording.
        noisy: The recording (T,).
        sampling_rate: Its rate in Hz.
        dry: Share of the recording, from 0 to 1.
    """
    noisy = resample(noisy, sampling_rate, result.sampling_rate)
    # A sample may be rounded away.
    noisy = np.pad(noisy, (0, 1))[: len(result.audio)]
    return replace(result, audio=(1 - dry) * result.audio + dry * noisy)
