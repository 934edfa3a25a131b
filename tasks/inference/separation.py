"""Each talker alone, from a recording of several."""

from pathlib import Path
from typing import Any

from ...lm import Sampling, SpeechLM
from .aligned import rewrite
from .inputs import InputKind, load_waves, one_or_all, open_model, task_template
from .result import SpeechResult


def separate(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    num_speakers: int = 2,
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    input_kind: InputKind | None = None,
) -> SpeechResult | list[SpeechResult]:
    """Take a mixture of talkers apart; `result.audio` is (talkers, T), first to speak first, T exactly the mixture's.

    Args:
        audio: a mixture, or a list of them; as in `enhance`. More than 10 s go through the model in windows; with three
            talkers and more, those after the first may then change places from one window to the next.
        model: a folder, a hub id or a loaded `SpeechLM` that was trained for "ss" or "ss-features".
        num_speakers: how many there are; as many as the model has learnt.
        sampling_rate: of arrays, in Hz.
        sampling: how tokens are drawn; as suits the task by default.
        seed: of the sampling.
        input_kind: as in `enhance`.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a model of another task, an array without its rate, audio that is none, or fewer than 2 talkers.
    """
    if num_speakers < 2:
        raise ValueError(f"separate takes at least 2 talkers apart, found {num_speakers}: for one in noise, enhance")
    lm = open_model(model, "ss")
    template = task_template(lm, "ss", input_kind)
    waves = load_waves(audio, sampling_rate, lm.audio_tokenizer)
    return one_or_all(rewrite(lm, template, waves, num_speakers, sampling=sampling, seed=seed), audio)
