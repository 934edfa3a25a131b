"""Measure how fast a folder of short recordings is tokenized on this machine, beside the codec alone."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.corpus import read_corpus
from ...data.tokenization import tokenize_corpus
from ...tokenizer import AudioTokenizer
from ...tokenizer.audio import write_audio
from ...tokenizer.focalcodec.inputs import group_items
from .record import make_record, make_row, take_turns

_SECONDS = (1.0, 5.0)  # shortest and longest recording
_BATCH_SECONDS = 60.0  # as in `focallm tokenize`
_REPEATS = 3


def benchmark_tokenize(source: str | Path, threads: int, num_files: int = 200) -> dict[str, Any]:
    """Tokenize FLAC files of noise into a new store, in turn with encoding the same batches from memory.

    Args:
        source: "mini", or a folder or hub id of a codec.
        threads: CPU threads of the codec. Threads that read files come on top.
        num_files: number of recordings.

    Raises:
        ValueError: A number is below 1.
    """
    for name, number in (("threads", threads), ("num_files", num_files)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, found {number}")
    torch.set_num_threads(threads)
    tokenizer = AudioTokenizer.from_pretrained(source)
    rate = tokenizer.sampling_rate
    rng = np.random.default_rng(0)
    waves = []
    for seconds in rng.uniform(*_SECONDS, num_files):
        waves.append((0.1 * rng.standard_normal(round(seconds * rate))).astype(np.float32))
    batches = group_items([len(wave) / rate for wave in waves], _BATCH_SECONDS)

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "corpus").mkdir()
        for i, wave in enumerate(waves):
            write_audio(Path(folder) / "corpus" / f"{i:06d}.flac", wave, rate)
        corpus = read_corpus(Path(folder) / "corpus")
        num_stores = 0

        def tokenize() -> None:
            nonlocal num_stores
            num_stores += 1
            store = Path(folder) / f"store_{num_stores}"
            tokenize_corpus(corpus, store, tokenizer, batch_seconds=_BATCH_SECONDS)

        def encode() -> None:
            for batch in batches:
                tokenizer([waves[i] for i in batch], sampling_rate=rate)

        our_seconds, their_seconds = take_turns(tokenize, encode, _REPEATS)
    row = make_row(f"tokenize, {num_files} files of 1 to 5 s", our_seconds, "the codec alone", their_seconds)
    return make_record(f"{source}; {_REPEATS} repeats in turn", threads, [row])
