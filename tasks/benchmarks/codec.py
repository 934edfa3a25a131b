"""Measure the speed and the peak memory of a codec on this machine. B batch, T samples."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import torch

from ...tokenizer.audio_tokenizer import AudioTokenizer
from ...tokenizer.focalcodec.configuration import FocalCodecConfig
from ...tokenizer.focalcodec.modeling import FocalCodecModel

try:
    import psutil
except ImportError:
    raise ImportError("the memory benchmark needs psutil: pip install 'focallm[eval]'") from None

CASES = ((1, 1.0), (1, 10.0), (8, 10.0))  # batch size, seconds of each item
MEMORY_S = 60.0
_REPEATS = 3


def benchmark_codec(source: str, threads: int) -> str:
    """Return a Markdown table of real-time factors (the best of three), and the peak memory for a minute of audio.

    Args:
        source: "focalcodec_50hz" for the full-size model with random weights, which are as fast as trained ones; or
            anything that `AudioTokenizer.from_pretrained` accepts.
        threads: CPU threads.

    Raises:
        ValueError: `threads` is less than 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    torch.set_num_threads(threads)
    model = _load(source)
    lines = [
        f"{source}, {model.num_parameters() / 1e6:.1f} M parameters, {threads} threads",
        "",
        "| input | encode, x real time | decode, x real time |",
        "|---|---|---|",
    ]
    for batch_size, seconds in CASES:
        waveform = _noise(model, batch_size, seconds)
        codes = model.encode(waveform).audio_codes
        encode_s = _best_time(model.encode, waveform)
        decode_s = _best_time(model.decode, codes)
        audio_s = batch_size * seconds
        lines.append(f"| {batch_size} x {seconds:g} s | {audio_s / encode_s:.1f} | {audio_s / decode_s:.1f} |")
    megabytes = _memory_in_fresh_process(source, threads)
    lines += ["", f"peak memory above the loaded model, {MEMORY_S:g} s: {megabytes:.0f} MB"]
    return "\n".join(lines)


def measure_memory(source: str, threads: int) -> float:
    """Return the largest growth of this process in MB while it encodes and decodes a minute of audio."""
    torch.set_num_threads(threads)
    model = _load(source)
    # The first call allocates library buffers, which do not grow with the audio.
    model.decode(model.encode(_noise(model, 1, 1.0)).audio_codes)
    waveform = _noise(model, 1, MEMORY_S)
    process = psutil.Process()
    before = process.memory_info().rss
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model.decode(model.encode(waveform).audio_codes)
    done.set()
    watcher.join()
    return (peak - before) / 2**20


def _load(source: str) -> FocalCodecModel:
    if source == "focalcodec_50hz":
        torch.manual_seed(0)
        return FocalCodecModel(FocalCodecConfig()).eval()
    return AudioTokenizer.from_pretrained(source).codec


def _noise(model: FocalCodecModel, batch_size: int, seconds: float) -> torch.Tensor:
    """Return noise (B, T) at the level of speech; the speed does not depend on the audio."""
    return torch.randn(batch_size, round(seconds * model.config.sampling_rate)) * 0.1


def _best_time(call: Callable[[torch.Tensor], object], argument: torch.Tensor) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - start)
    return min(times)


def _memory_in_fresh_process(source: str, threads: int) -> float:
    # This process would reuse memory that it freed before, so that its growth would be too small.
    code = f"from {__name__} import measure_memory; print(measure_memory({source!r}, {threads}))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
