"""Speech without noise and reverberation."""

from pathlib import Path
from typing import Any

from ...lm import Sampling, SpeechLM
from .aligned import rewrite
from .inputs import InputKind, load_waves, one_or_all, open_model, task_template
from .result import SpeechResult


def enhance(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    input_kind: InputKind | None = None,
) -> SpeechResult | list[SpeechResult]:
    """Clean a recording; the result lasts exactly as long, to the sample, at the codec's output rate.

    Args:
        audio: a path, array, tensor, list of floats or {"array", "sampling_rate"}, of any length (more than 10 s go
            through the model in windows); or a list of these.
        model: a folder, a hub id or a loaded `SpeechLM` that was trained for "se" or "se-features".
        sampling_rate: of arrays, in Hz.
        sampling: how tokens are drawn; as suits the task by default.
        seed: of the sampling.
        input_kind: what the model is given, the codec's "features" or its "codes"; by default features where it can.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a model of another task, an array without its rate, or audio that is none.
    """
    lm = open_model(model, "se")
    template = task_template(lm, "se", input_kind)
    waves = load_waves(audio, sampling_rate, lm.audio_tokenizer)
    return one_or_all(rewrite(lm, template, waves, sampling=sampling, seed=seed), audio)
