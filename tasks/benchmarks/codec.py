"""Measure the speed and the peak memory of a codec on this machine. B batch, T samples, N token frames."""

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...tokenizer.audio_tokenizer import AudioTokenizer
from ...tokenizer.focalcodec.configuration import FocalCodecConfig
from ...tokenizer.focalcodec.modeling import FocalCodecModel
from .record import Row, make_record, make_row, take_turns

try:
    import psutil
except ImportError:
    raise ImportError("the memory benchmark needs psutil: pip install 'focallm[eval]'") from None

# Seconds of the items of each batch. The last has lengths as in a corpus of sentences.
CASES = {
    "1 x 10 s": [10.0],
    "4 x 5 s": [5.0] * 4,
    "8 of 1 to 12 s": torch.linspace(1, 12, 8).tolist(),
}
MEMORY_CASES = {"60 s": (1, 60.0), "8 x 10 s": (8, 10.0)}  # batch size, seconds of each item
_REPEATS = 3
_PRODUCT = (1024, 1024, 4096)  # sizes of the product that measures how fast the machine multiplies


def benchmark_codec(source: str, threads: int) -> dict[str, Any]:
    """Compare batches with single items, with padded batches and with their products of matrices alone.

    Args:
        source: "focalcodec_50hz" for the full-size model with random weights, which are as fast as trained ones; or
            anything that `AudioTokenizer.from_pretrained` accepts.
        threads: CPU threads.

    Returns:
        The record, with a list `memory` of cases and the MB above the loaded model.

    Raises:
        ValueError: `threads` is less than 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    torch.set_num_threads(threads)
    model = _load(source)
    rows = []
    for name, durations in CASES.items():
        waves = [_noise(model, 1, seconds)[0] for seconds in durations]
        batch, mask = _pad(waves)
        rows += _compare(
            f"encode, {name}",
            partial(model.encode, batch, mask),
            partial(_one_by_one, model.encode, waves),
        )
        if min(durations) < max(durations):
            # Without a mask, padding is encoded as if it were speech.
            our_seconds, padded_seconds = take_turns(
                partial(model.encode, batch, mask), partial(model.encode, batch), _REPEATS
            )
            rows.append(make_row(f"encode, {name}", our_seconds, "padded to the longest", padded_seconds))
        encoded = model.encode(batch, mask)
        codes = [item[:, valid] for item, valid in zip(encoded.audio_codes, encoded.audio_codes_mask, strict=True)]
        rows += _compare(
            f"decode, {name}",
            partial(model.decode, encoded.audio_codes, encoded.audio_codes_mask),
            partial(_one_by_one, model.decode, codes),
        )
    memory = []
    for name, (batch_size, seconds) in MEMORY_CASES.items():
        memory.append({"case": name, "megabytes": _memory_in_fresh_process(source, threads, batch_size, seconds)})
    title = f"{source}, {model.num_parameters() / 1e6:.1f} M parameters; {_REPEATS} repeats in turn"
    return make_record(title, threads, rows, memory=memory)


def _compare(case: str, together: Callable[[], object], one_by_one: Callable[[], object]) -> list[Row]:
    """Compare one batch with its items alone, and both with the time of the products of matrices."""
    seconds, single_seconds = take_turns(together, one_by_one, _REPEATS)
    # A loop over single items has no padding, so its products are those that the batch needs.
    with FlopCounterMode(display=False) as counter:
        one_by_one()
    left = torch.randn(_PRODUCT[0], _PRODUCT[1])
    right = torch.randn(_PRODUCT[1], _PRODUCT[2])
    again, product_seconds = take_turns(together, lambda: left @ right, _REPEATS)
    products = counter.get_total_flops() / (2 * _PRODUCT[0] * _PRODUCT[1] * _PRODUCT[2])
    return [
        make_row(case, seconds, "one by one", single_seconds),
        make_row(case, again, "products of matrices alone", [products * second for second in product_seconds]),
    ]


def _one_by_one(call: Callable[[Tensor], object], items: list[Tensor]) -> None:
    for item in items:
        call(item[None])


def _pad(waves: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Put waveforms (T,) into a batch (B, T) with its mask."""
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    return batch, torch.arange(batch.shape[1]) < lengths[:, None]


def measure_memory(source: str, threads: int, batch_size: int, seconds: float) -> float:
    """Return the largest growth of this process in MB while it encodes and decodes a batch."""
    torch.set_num_threads(threads)
    model = _load(source)
    # The first call allocates library buffers, which do not grow with the audio.
    model.decode(model.encode(_noise(model, 1, 1.0)).audio_codes)
    waveform = _noise(model, batch_size, seconds)
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


def _memory_in_fresh_process(source: str, threads: int, batch_size: int, seconds: float) -> float:
    # This process would reuse memory that it freed before, so that its growth would be too small.
    arguments = f"{source!r}, {threads}, {batch_size}, {seconds}"
    code = f"from {__name__} import measure_memory; print(measure_memory({arguments}))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
