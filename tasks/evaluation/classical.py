"""Classical codecs and synthesisers to compare with, through their own programs. T samples.

Debian: codec2, opus-tools, flite, espeak-ng.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ...tokenizer import read_audio, resample, write_audio

# name -> programs, sampling rate of what they hear in Hz, nominal bit rate in bit/s
CODECS = {
    "codec2-700C": (("c2enc", "c2dec"), 8000, 700),
    "codec2-1300": (("c2enc", "c2dec"), 8000, 1300),
    "opus-6": (("opusenc", "opusdec"), 16000, 6000),
}


def through_classical(name: str, audio: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Encode and decode (T,) audio; -> the same at that rate, of about that length, and the bit rate that it took.

    Raises:
        ImportError: the program is not installed.
    """
    (encoder, decoder), heard, _ = CODECS[name]
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


def say_classically(program: str, text: str) -> tuple[np.ndarray, int]:
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
