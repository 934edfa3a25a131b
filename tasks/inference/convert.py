"""Convert speech to the voice of another recording."""

import time
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ...lm.generation import StopReason
from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from ...tokenizer import AudioTokenizer
from .inputs import encode_ids, join_references, load_waves, open_model, unbatch
from .result import SpeechResult, speech_results
from .speech_to_speech import WINDOW_S, transform_speech

_MAX_MATCHING_S = 60.0  # of a reference for "knn": each frame is compared with all frames of the reference


def convert(
    audio: Any,
    reference: Any,
    model: str | Path | SpeechLM = "mini",
    method: Literal["lm", "knn"] | None = None,
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> SpeechResult | list[SpeechResult]:
    """Give a recording the voice of another one. The result has exactly its duration, at the codec's output rate.

    Args:
        audio: The recording to convert, or a list of recordings, as in `enhance`.
        reference: One or several recordings of the voice, which all results get. "lm" reads their first 10 s, and "knn"
            their first 60 s.
        model: A folder, a hub id, or a loaded `SpeechLM`.
        method: "lm" uses a model that was trained for "vc". "knn" needs only the FocalCodec of the model: it replaces
            each frame by the mean of the 4 most similar frames of the reference. By default "lm" if the model was
            trained for it, otherwise "knn". `stats["method"]` says which was used.
        sampling_rate: Rate in Hz of arrays, also of the reference.
        sampling: How tokens are sampled; by default as suits the task. "knn" does not use it.
        seed: Seed of the sampling.

    Raises:
        OSError: A file cannot be read.
        ValueError: The model was trained for other tasks, an array comes without its rate, the audio is invalid, the
            reference is too short or silent, or the codec has no features.
    """
    if method not in (None, "lm", "knn"):
        raise ValueError(f"method is 'lm' or 'knn', found {method!r}")
    lm = open_model(model)
    waves = load_waves(audio, sampling_rate, lm.audio_tokenizer)
    references = load_waves(reference, sampling_rate, lm.audio_tokenizer)
    rate = lm.audio_tokenizer.sampling_rate
    if method is None:
        can_convert = any(template.name == "vc" for template in lm.info.templates)
        method = "lm" if can_convert else "knn"
    if method == "knn":
        voice = join_references(references, rate, _MAX_MATCHING_S)
        return unbatch(convert_by_knn(lm.audio_tokenizer, waves, voice), audio)

    template = lm.info.template("vc")
    # The reference is part of every prompt, so it must leave room for the window of the recording.
    voice = join_references(references, rate, WINDOW_S)
    shared_fields = {"reference_codes": encode_ids(lm.audio_tokenizer, [voice])[0]}
    results = transform_speech(lm, template, waves, 1, shared_fields, sampling, seed)
    for result in results:
        result.stats["method"] = "lm"
    return unbatch(results, audio)


def convert_by_knn(tokenizer: AudioTokenizer, waves: list[Tensor], voice: Tensor) -> list[SpeechResult]:
    """Convert waveforms to a voice without a language model: kNN-VC (Baas et al., 2023, arXiv 2305.18975).

    Args:
        tokenizer: A tokenizer with a FocalCodec.
        waves: Recordings (T,) at the rate of the codec.
        voice: Recording (T,) of the voice at the rate of the codec.

    Raises:
        ValueError: The codec is not a FocalCodec.
    """
    # Codecs with features can also decode with a matching set, which the protocol of all codecs leaves out.
    codec: Any = tokenizer.codec
    if codec.feature_dim is None:
        raise ValueError(f"'knn' needs the features of a FocalCodec, and this codec is a {type(codec).__name__}")
    start_time = time.perf_counter()
    matching_set = codec.extract_features(voice[None].to(codec.device))[0]
    codes = tokenizer.encode_codes(waves)
    audios = []
    for item_codes, wave in zip(codes, waves, strict=True):
        output = codec.decode(item_codes[None].to(codec.device), num_samples=len(wave), matching_set=matching_set)
        audios.append(output["audio_values"].flatten().float().cpu().numpy())
    stop_reasons: list[StopReason] = ["constraint"] * len(waves)
    results = speech_results(start_time, codes, audios, tokenizer.output_sampling_rate, stop_reasons)
    for result in results:
        result.stats["method"] = "knn"
    return results
