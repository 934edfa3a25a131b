"""What one voice says, in another voice."""

import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...lm import Sampling, SpeechLM
from ...tokenizer import AudioTokenizer, FocalCodecModel
from .aligned import WINDOW_S, rewrite
from .inputs import encode_ids, load_waves, one_or_all, open_model
from .result import SpeechResult, measure


def convert(
    audio: Any,
    reference: Any,
    model: str | Path | SpeechLM = "mini",
    method: Literal["lm", "knn"] | None = None,
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SpeechResult | list[SpeechResult]:
    """Give a recording the voice of another one; the result lasts exactly as long, at the codec's output rate.

    Args:
        audio: what is said, or a list of recordings; as in `enhance`.
        reference: recording(s) of the voice, as `audio`; all for all. The more of it, the better for "knn"; "lm" hears
            the first 10 s.
        model: a folder, a hub id, or a loaded `SpeechLM`.
        method: "lm", by a model that was trained for "vc"; or "knn", which needs only the model's FocalCodec: each
            frame becomes the mean of the 4 frames of the reference most like it. By default "lm" where the model can,
            else "knn". `stats["method"]` says which.
        sampling_rate: of arrays, in Hz; of the reference too.
        sampling: how tokens are drawn; as suits the task by default. Not used by "knn".
        seed: of the sampling.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a model of another task, an array without its rate, audio that is none, or a codec without features.
    """
    if method not in (None, "lm", "knn"):
        raise ValueError(f"method is 'lm' or 'knn', found {method!r}")
    lm = open_model(model)
    waves = load_waves(audio, sampling_rate, lm.audio_tokenizer)
    voice = torch.cat(load_waves(reference, sampling_rate, lm.audio_tokenizer))
    if method == "knn" or (method is None and "vc" not in [template.name for template in lm.info.templates]):
        return one_or_all(nearest(lm.audio_tokenizer, waves, voice), audio)
    template, heard = lm.info.template("vc"), round(WINDOW_S * lm.audio_tokenizer.sampling_rate)
    others = {"reference_codes": encode_ids(lm.audio_tokenizer, [voice[:heard]])[0]}
    results = rewrite(lm, template, waves, 1, others, sampling, seed)
    for result in results:
        result.stats["method"] = "lm"
    return one_or_all(results, audio)


def nearest(tokenizer: AudioTokenizer, waves: list[Tensor], voice: Tensor) -> list[SpeechResult]:
    """The paper's route without an LM: waves and voice (T,) at the codec's rate.

    Raises:
        ValueError: a codec without features.
    """
    codec, rate = tokenizer.codec, tokenizer.output_sampling_rate
    if not isinstance(codec, FocalCodecModel):
        raise ValueError(f"'knn' needs the features of a FocalCodec, and this codec is a {type(codec).__name__}")
    began = time.perf_counter()
    matching_set = codec.extract_features(voice[None].to(codec.device))[0]
    codes = tokenizer.encode_codes(waves)
    audios = [
        codec.decode(item[None].to(codec.device), num_samples=len(wave), matching_set=matching_set)["audio_values"]
        for item, wave in zip(codes, waves, strict=True)
    ]
    sounds = [audio.flatten().float().cpu().numpy() for audio in audios]
    stats = measure(began, [item.numel() for item in codes], [len(sound) / rate for sound in sounds])
    return [
        SpeechResult(sound, rate, "constraint", {**figures, "method": "knn"})
        for sound, figures in zip(sounds, stats, strict=True)
    ]
