"""Measure how long it takes to enhance a recording on this machine, beside DeepFilterNet3."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.baselines import deep_filter
from ..inference.enhance import enhance
from ..inference.inputs import open_enhancer
from .record import make_record, make_row, take_turns

_RATE = 16000
_SECONDS = (2, 10)
_REPEATS = 3


def benchmark_enhance(source: str | Path, threads: int) -> dict[str, Any]:
    """Enhance recordings of several durations in turn with DeepFilterNet3, which always uses one thread.

    Args:
        source: "mini", or a folder or hub id of a model that enhances.
        threads: CPU threads.

    Raises:
        ImportError: DeepFilterNet3 is not installed.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    torch.set_num_threads(threads)
    model = open_enhancer(source)
    rows = []
    for seconds in _SECONDS:
        audio = (0.1 * np.random.default_rng(0).standard_normal(seconds * _RATE)).astype(np.float32)
        ours, theirs = take_turns(
            partial(enhance, audio, model, _RATE),
            partial(deep_filter, audio, _RATE),
            _REPEATS,
        )
        rows.append(make_row(f"enhance, {seconds} s", ours, "DeepFilterNet3", theirs))
    return make_record(f"{source}; {_REPEATS} repeats in turn", threads, rows)
