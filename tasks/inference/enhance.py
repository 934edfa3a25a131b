"""Remove noise and reverberation from speech."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lm.model import SpeechLM
from ...lm.sampling import Sampling
from ...tokenizer import AudioTokenizer
from ...tokenizer.waveform import Waveform, resample
from .inputs import InputKind, load_waves, open_enhancer, task_template, unbatch
from .result import SpeechResult, generation_stats
from .speech_to_speech import transform_speech

_WINDOW_S = 25.0  # with its context, a window fits into the 30 s of Whisper
_CONTEXT_S = 2.0


def enhance(
    audio: Any,
    model: str | Path | SpeechLM | AudioTokenizer = "mini",
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
        model: A folder, a hub id or a loaded model: a `SpeechLM` that was trained for "se" or "se-features"; or an
            `AudioTokenizer` whose codec has an encoder of type "denoising", which needs no language model.
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
    opened = open_enhancer(model)
    if isinstance(opened, AudioTokenizer):
        tokenizer = opened
        if sampling is not None or input_kind is not None:
            raise ValueError("sampling and input_kind are for language models, but this model is a codec")
        waves = load_waves(audio, sampling_rate, tokenizer)
        results = denoise(tokenizer, waves)
    else:
        tokenizer = opened.audio_tokenizer
        template = task_template(opened, "se", input_kind)
        waves = load_waves(audio, sampling_rate, tokenizer)
        results = transform_speech(opened, template, waves, sampling=sampling, seed=seed)
    if dry:
        for i, (wave, result) in enumerate(zip(waves, results, strict=True)):
            results[i] = add_input(result, wave.numpy(), tokenizer.sampling_rate, dry)
    return unbatch(results, audio)


@torch.inference_mode()
def denoise(tokenizer: AudioTokenizer, waves: list[Tensor]) -> list[SpeechResult]:
    """Decode what a denoising encoder hears in each recording (T,), without tokens between.

    A long recording is processed in windows, with context on both sides that is cut off again.
    """
    codec: Any = tokenizer.codec
    hop = codec.config.hop_length
    output_hop = codec.config.decoder_config.hop_length
    window = round(_WINDOW_S * tokenizer.sampling_rate / hop)
    context = round(_CONTEXT_S * tokenizer.sampling_rate / hop)
    results = []
    for wave in waves:
        start_time = time.perf_counter()
        pieces = []
        for start in range(0, -(-len(wave) // hop), window):
            left = max(0, start - context)
            part = wave[left * hop : (start + window + context) * hop].to(tokenizer.device)
            decoded = codec.decoder(codec.extract_features(part[None]))[0].cpu()
            pieces.append(decoded[(start - left) * output_hop :][: window * output_hop])
        num_samples = round(len(wave) * tokenizer.output_sampling_rate / tokenizer.sampling_rate)
        audio = torch.cat(pieces)[:num_samples].numpy()
        stats = generation_stats(start_time, [0], [num_samples / tokenizer.output_sampling_rate])
        results.append(SpeechResult(audio, tokenizer.output_sampling_rate, "constraint", stats[0]))
    return results


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
