"""Separate the speakers of a recording."""

from pathlib import Path
from typing import Any

from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from .inputs import InputKind, load_waves, open_model, task_template, unbatch
from .result import SpeechResult
from .speech_to_speech import transform_speech


def separate(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    num_speakers: int = 2,
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    input_kind: InputKind | None = None,
) -> SpeechResult | list[SpeechResult]:
    """Separate the speakers of a mixture.

    Args:
        audio: A mixture or a list of mixtures, as in `enhance`. Recordings of more than 10 s are processed in
            overlapping windows; with three or more speakers, those after the first may change places between windows.
        model: A folder, a hub id or a loaded `SpeechLM` that was trained for "ss" or "ss-features".
        num_speakers: Number of speakers, as many as in the mixtures that the model was trained on.
        sampling_rate: Rate of arrays in Hz.
        sampling: How tokens are sampled; by default as suits the task.
        seed: Seed of the sampling.
        input_kind: What the model reads, as in `enhance`.

    Returns:
        `audio` is (num_speakers, T) in the order in which the speakers begin, with exactly the duration of the mixture.

    Raises:
        OSError: A file cannot be read.
        ValueError: The model was trained for other tasks, an array comes without its rate, the audio is invalid, or
            `num_speakers` is less than 2 or more than the model was trained on.
    """
    if num_speakers < 2:
        raise ValueError(
            f"separate needs at least 2 speakers, found num_speakers={num_speakers}: use enhance for a single speaker"
        )
    lm = open_model(model, "ss")
    template = task_template(lm, "ss", input_kind)
    max_speakers = lm.info.max_speakers
    if max_speakers is not None and num_speakers > max_speakers:
        raise ValueError(
            f"this model was trained to separate up to {max_speakers} speakers, found num_speakers={num_speakers}: "
            "train one on mixtures of as many (num_speakers in configs/mix/separation_3.yaml)"
        )
    waves = load_waves(audio, sampling_rate, lm.audio_tokenizer)
    return unbatch(transform_speech(lm, template, waves, num_speakers, sampling=sampling, seed=seed), audio)
