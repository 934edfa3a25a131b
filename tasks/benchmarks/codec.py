"""Speed and memory of a codec on this machine."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import torch

from ...tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

try:
    import psutil
except ImportError:
    raise ImportError("the memory benchmark needs psutil: pip install 'focallm[eval]'") from None

CASES = ((1, 1.0), (1, 10.0), (8, 10.0))  # items, seconds of each
MEMORY_S = 60.0
_REPEATS = 3


def benchmark_codec(source: str, threads: int) -> str:
    """A Markdown table of real-time factors (best of three) and the peak memory of a minute.

    Args:
        source: "focalcodec_50hz" for the full-size configuration with random weights (speed does not depend on
            them), or anything that `AudioTokenizer.from_pretrained` takes.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    model = _load(source)
    config = model.config
    lines = [
        f"{source}, {model.num_parameters() / 1e6:.1f} M parameters, {threads} threads",
        "",
        "| input | encode, x real time | decode, x real time |",
        "|---|---|---|",
    ]
    for items, seconds in CASES:
        waveform = torch.randn(items, round(seconds * config.sampling_rate)) * 0.1
        codes = model.encode(waveform).audio_codes
        encoding = _best(lambda w: model.encode(w), waveform)
        decoding = _best(lambda c: model.decode(c), codes)
        lines.append(
            f"| {items} x {seconds:g} s | {items * seconds / encoding:.1f} | {items * seconds / decoding:.1f} |"
        )
    lines += [
        "",
        f"peak memory above the loaded model, {MEMORY_S:g} s: {_memory_in_fresh_process(source, threads):.0f} MB",
    ]
    return "\n".join(lines)


def measure_memory(source: str, threads: int) -> float:
    """MB that the process grows by, at most, while a minute is encoded and decoded; in a fresh process."""
    torch.set_num_threads(threads)
    model = _load(source)
    second = torch.randn(1, model.config.sampling_rate) * 0.1
    model.decode(model.encode(second).audio_codes)  # libraries allocate their own buffers once
    waveform = torch.randn(1, round(MEMORY_S * model.config.sampling_rate)) * 0.1
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

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


def _best(call: Callable[[torch.Tensor], object], argument: torch.Tensor) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - began)
    return min(times)


def _memory_in_fresh_process(source: str, threads: int) -> float:
    code = f"from {__name__} import measure_memory; print(measure_memory({source!r}, {threads}))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
