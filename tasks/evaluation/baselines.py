"""Codecs to compare, by the names of the paper's tables, by folders, or as programs. T samples."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...data.shards import weights_hash
from ...data.utterance import Utterance
from ...tokenizer import AudioTokenizer, resample
from .classical import CODECS, through_classical
from .metrics import Sound
from .metrics.metric import RATE
from .results import System

# Name on the command line -> name in the published tables, where the weights are, and how many codebooks are used.
PAPER: dict[str, tuple[str, str, int | None]] = {
    "encodec": ("EnCodec", "facebook/encodec_24khz", 2),
    "dac": ("DAC", "descript/dac_16khz", 2),
    "wavlm6_km": ("WavLM6-KM", "lucadellalib/discrete-wavlm-codec", None),
    "speechtokenizer": ("SpeechTokenizer", "fnlp/SpeechTokenizer", 2),
    "semanticodec": ("SemantiCodec", "semanticodec", None),
    "mimi": ("Mimi", "kyutai/mimi", 5),
    "wavtokenizer": ("WavTokenizer", "novateur/WavTokenizer-large-unify-40token", None),
    "bigcodec": ("BigCodec", "Alethia/BigCodec", None),
    "stable_codec": ("Stable Codec", "stabilityai/stable-codec-speech-16k", None),
    "focalcodec_50hz": ("FocalCodec@50", "lucadellalib/focalcodec_50hz", None),
    "focalcodec_25hz": ("FocalCodec@25", "lucadellalib/focalcodec_25hz", None),
    "focalcodec_12_5hz": ("FocalCodec@12.5", "lucadellalib/focalcodec_12_5hz", None),
}


@dataclass(frozen=True)
class Contender:
    """A codec that recordings go through.

    Args:
        name: of its row.
        key: hash of its weights; "" for programs.
        through: (T,) at `RATE` -> the same again, of that length, and facts for its line.
        tokenizer: None for programs.
    """

    name: str
    key: str
    through: Callable[[np.ndarray], tuple[np.ndarray, dict]]
    tokenizer: AudioTokenizer | None = None


def open_contender(spec: str) -> Contender:
    """A codec by its name.

    Args:
        spec: a key of `PAPER`, which is fetched from the hub; NAME=FOLDER, the same with weights that are at hand;
            codec2-700C, codec2-1300 or opus-6; `mini`, a folder or a hub id.

    Raises:
        OSError, ValueError: as `AudioTokenizer.from_pretrained`.
    """
    if spec in CODECS:
        return Contender(spec, "", lambda audio: _through_program(spec, audio))
    name, _, folder = spec.partition("=")
    title, source, codebooks = PAPER.get(name, (spec, spec, None))
    try:
        return contender_of(title, AudioTokenizer.from_pretrained(folder or source, codebooks))
    except OSError as error:
        if folder or name not in PAPER:
            raise
        raise OSError(f"{error}\nWeights of {title} that are at hand: --codecs {name}=FOLDER") from error


def contender_of(name: str, tokenizer: AudioTokenizer) -> Contender:
    """A loaded codec."""
    return Contender(name, weights_hash(tokenizer.codec), lambda audio: _through_tokenizer(tokenizer, audio), tokenizer)


def unchanged(name: str) -> Contender:
    """What does nothing."""
    return Contender(name, "", lambda audio: (audio, {}))


def heard_through(
    contender: Contender,
    items: Sequence[Utterance],
    heard: Callable[[int], np.ndarray],
    clean: Callable[[int], np.ndarray],
) -> System:
    """What a contender leaves of each item, (T,) at `RATE`, to be compared with the clean one."""

    def make(i: int) -> list[Sound]:
        again, facts = contender.through(heard(i))
        return [Sound(again, RATE, items[i].text or "", clean(i), {"similarity": clean(i)}, facts)]

    return System(contender.name, contender.key, make)


def _through_tokenizer(tokenizer: AudioTokenizer, audio: np.ndarray) -> tuple[np.ndarray, dict]:
    began = time.perf_counter()
    encoded = tokenizer(audio, sampling_rate=RATE)
    ids = encoded["input_ids"][0]
    again = tokenizer.decode(ids, num_samples=int(encoded["num_samples"][0]))
    seconds = time.perf_counter() - began
    facts = {
        "bit_rate": tokenizer.bits_per_second,
        "codes": ids.tolist(),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "rtf": len(audio) / RATE / seconds,
    }
    return as_long(resample(again, tokenizer.output_sampling_rate, RATE), len(audio)), facts


def _through_program(name: str, audio: np.ndarray) -> tuple[np.ndarray, dict]:
    again, measured = through_classical(name, audio, RATE)
    return as_long(again, len(audio)), {"bit_rate": CODECS[name][2], "measured_bit_rate": measured}


def as_long(wave: np.ndarray, size: int) -> np.ndarray:
    """(T,) -> (size,), cut or with silence at the end: programs and streams work in frames of their own."""
    return np.pad(wave[:size], (0, max(0, size - len(wave))))
