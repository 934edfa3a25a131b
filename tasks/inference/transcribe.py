"""Transcribe speech."""

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from ...lm.features import max_positions
from ...lm.generation import StopReason
from ...lm.info import TEXT_RATE, text_window
from ...lm.model import SpeechLM
from ...lm.sampling import Sampling, generation_defaults
from .inputs import encode_ids, load_waves, open_model, unbatch
from .result import Transcript, generation_stats

MAX_PIECE_S = 15.0  # longer recordings are cut into pieces
_MIN_PIECE_S = 0.5  # for a model with fewer positions than this takes, generate() raises the error
_NUM_OTHER_IDS = 40  # control tokens, and the text that `text_window` allows for an empty recording


def transcribe(
    audio: Any,
    model: str | Path | SpeechLM = "mini",
    sampling_rate: int | list[int] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Transcript | list[Transcript]:
    """Transcribe a recording.

    Args:
        audio: A path, array, tensor, list of floats or {"array", "sampling_rate"}, of any length; or a list of these.
            Recordings of more than 15 s are cut at quiet moments.
        model: A folder, a hub id or a loaded `SpeechLM` that was trained for "asr".
        sampling_rate: Rate of arrays in Hz.
        sampling: How tokens are sampled; greedy by default.
        seed: Seed of the sampling.

    Returns:
        The text, which is empty if the model recognizes nothing. `stop_reason` is "max_length" if the text of a piece
        reached the longest length that its duration allows.

    Raises:
        OSError: A file cannot be read.
        ValueError: The model was trained for other tasks, an array comes without its rate, or the audio is invalid.
    """
    lm = open_model(model)
    template = lm.info.template("asr")
    tokenizer = lm.audio_tokenizer
    waves = load_waves(audio, sampling_rate, tokenizer)
    start_time = time.perf_counter()

    # The pieces of all recordings are transcribed in one batch. Both the speech and its text take positions.
    ids_per_second = tokenizer.tokens_per_second + TEXT_RATE
    fitting_s = (max_positions(lm.model) - _NUM_OTHER_IDS) / ids_per_second
    max_piece_s = min(MAX_PIECE_S, max(_MIN_PIECE_S, fitting_s))
    pieces: list[Tensor] = []
    piece_counts = []
    for wave in waves:
        wave_pieces = split_at_quiet_moments(wave, tokenizer.sampling_rate, max_piece_s)
        pieces += wave_pieces
        piece_counts.append(len(wave_pieces))
    prompts = []
    for ids in encode_ids(tokenizer, pieces):
        window = text_window(len(ids) / tokenizer.tokens_per_second)
        prompts.append(template.prompt(lm.vocabulary, window, codes=ids))
    sampling = sampling or generation_defaults(template, lm.code_bits)
    generations = lm.generate(prompts, sampling=sampling, seed=[seed] * len(prompts))

    transcripts = []
    num_tokens = []
    seconds = []
    first = 0
    for wave, count in zip(waves, piece_counts, strict=True):
        texts = []
        num_wave_tokens = 0
        stop_reason: StopReason = "end"
        for generation in generations[first : first + count]:
            text = lm.vocabulary.tokenizer.decode(generation.codes, skip_special_tokens=True).strip()
            if text:
                texts.append(text)
            num_wave_tokens += len(generation.codes)
            if generation.stop_reason == "max_length":
                stop_reason = "max_length"
        first += count
        transcripts.append(Transcript(" ".join(texts), stop_reason))
        num_tokens.append(num_wave_tokens)
        seconds.append(len(wave) / tokenizer.sampling_rate)
    stats = generation_stats(start_time, num_tokens, seconds)
    for transcript, item_stats in zip(transcripts, stats, strict=True):
        transcript.stats.update(item_stats)
    return unbatch(transcripts, audio)


def split_at_quiet_moments(wave: Tensor, sampling_rate: int, max_piece_s: float) -> list[Tensor]:
    """Split a waveform into pieces of limited duration.

    Args:
        wave: (T,).
        sampling_rate: Its rate in Hz.
        max_piece_s: The longest duration of a piece.

    Returns:
        Pieces (T',), each of which ends at the quietest tenth of a second of the last third of what would fit.
    """
    step = sampling_rate // 10
    max_samples = round(max_piece_s * sampling_rate)
    pieces = []
    start = 0
    while len(wave) - start > max_samples:
        search_start = start + 2 * max_samples // 3
        candidates = wave[search_start : start + max_samples].unfold(0, step, step)
        quietest = int(candidates.square().mean(dim=1).argmin())
        end = search_start + quietest * step + step // 2
        pieces.append(wave[start:end])
        start = end
    pieces.append(wave[start:])
    return pieces
