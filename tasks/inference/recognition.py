"""Text from speech."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from ...lm import Sampling, SpeechLM
from ...lm.answering import TEXT_RATE, text_window, usual_sampling
from ...lm.length import positions
from .inputs import encode_ids, load_waves, one_or_all, open_model
from .result import Transcript, measure

PIECE_S = 15.0  # longest piece of a recording that a model hears at once


def transcribe(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Transcript | list[Transcript]:
    """Write down what is said.

    Args:
        audio: a path, array, tensor, list of floats or {"array", "sampling_rate"}, of any length (more than 15 s are
            cut where it is quiet); or a list of these.
        model: a folder, a hub id or a loaded `SpeechLM` that was trained for "asr".
        sampling_rate: of arrays, in Hz.
        sampling: how tokens are drawn; by default the likeliest.
        seed: of the sampling.

    Returns:
        `text`, which is empty where the model hears nothing; `stop_reason` is "length" if a piece has no end.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a model of another task, an array without its rate, or audio that is none.
    """
    lm = open_model(model)
    template, tokenizer = lm.info.template("asr"), lm.audio_tokenizer
    waves = load_waves(audio, sampling_rate, tokenizer)
    began = time.perf_counter()
    fitting_s = (positions(lm.model) - 40) / (tokenizer.tokens_per_second + TEXT_RATE)
    longest_s = min(PIECE_S, max(0.5, fitting_s))  # for fewer positions than that, generate has the words
    pieces = [cut_where_quiet(wave, tokenizer.sampling_rate, longest_s) for wave in waves]
    prompts = []
    for ids in encode_ids(tokenizer, [piece for own in pieces for piece in own]):
        window = text_window(len(ids) / tokenizer.tokens_per_second)
        prompts.append(template.prompt(lm.vocabulary, window, codes=ids))
    generations = iter(
        lm.generate(prompts, sampling=sampling or usual_sampling(lm, template), seed=[seed] * len(prompts))
    )
    heard = [[next(generations) for _ in own] for own in pieces]
    seconds = [len(wave) / tokenizer.sampling_rate for wave in waves]
    stats = measure(began, [sum(len(g.codes) for g in own) for own in heard], seconds)
    texts = [[lm.vocabulary.tokenizer.decode(g.codes, skip_special_tokens=True).strip() for g in own] for own in heard]
    ends = ["length" if any(g.stop_reason == "length" for g in own) else "end" for own in heard]
    results = [
        Transcript(" ".join(filter(None, words)), end, figures)
        for words, end, figures in zip(texts, ends, stats, strict=True)
    ]
    return one_or_all(results, audio)


def cut_where_quiet(wave: Tensor, sampling_rate: int, longest_s: float) -> list[Tensor]:
    """(T,) -> pieces of at most `longest_s`, cut at the quietest tenth of a second of the last third of each."""
    step, longest = sampling_rate // 10, round(longest_s * sampling_rate)
    cuts = [0]
    while len(wave) - cuts[-1] > longest:
        begin, end = cuts[-1] + 2 * longest // 3, cuts[-1] + longest
        loudness = wave[begin:end].unfold(0, step, step).square().mean(dim=1)
        cuts.append(begin + int(loudness.argmin()) * step + step // 2)
    return [wave[a:b] for a, b in pairwise([*cuts, len(wave)])]
