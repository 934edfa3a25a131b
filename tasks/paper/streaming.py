"""Table 9: speech resynthesised at once, and chunk by chunk. T samples."""

import time

import numpy as np
import torch

from ...tokenizer import AudioTokenizer, resample
from ..evaluation.baselines import RATE, Baseline, fit_length, unchanged
from ..inference.inputs import load_waves
from .columns import columns_of
from .published import published
from .rendering import Row, Table
from .resynthesis import REFERENCE, notes, resynthesised
from .table_config import TableConfig

CHUNKS_MS = (125, 250, 500)
HOW = (
    "Measured chunks of a codec that is not causal are encoded and decoded each by itself, without context. A causal "
    "FocalCodec is streamed at its own chunk size: what it gives is what it gives offline."
)


def streaming_table(config: TableConfig) -> Table:
    """Every codec on the first corpus, at once and in chunks."""
    rows = published(9) + resynthesised(config, *config.first, [unchanged(REFERENCE)])
    for baseline in config.baselines:
        if baseline.tokenizer is None:
            continue
        tokenizer = baseline.tokenizer
        causal = tokenizer.codec.is_causal
        chunks = [stream_chunk_ms(tokenizer)] if causal else CHUNKS_MS
        ways = {float("inf"): baseline, **{float(ms): _chunked(baseline, tokenizer, ms) for ms in chunks}}
        found = resynthesised(config, *config.first, list(ways.values()))
        for ms, row in zip(ways, found, strict=True):
            cells = {"causal": "Yes" if causal else "No", "chunk_ms": ms}
            rows.append(Row(baseline.name, {**row.cells, **cells}))
    return Table("Table 9: offline and in chunks", columns_of(rows), rows, [*notes(config), HOW])


def _chunked(baseline: Baseline, tokenizer: AudioTokenizer, ms: float) -> Baseline:
    through = lambda audio: in_chunks(tokenizer, audio, ms)  # noqa: E731
    return Baseline(f"{baseline.name}, {ms:g} ms", baseline.fingerprint, through)


def stream_chunk_ms(tokenizer: AudioTokenizer) -> float:
    """The least that a causal FocalCodec encodes at once."""
    return 1000 * tokenizer.codec.stream().chunk_length / tokenizer.sampling_rate


def in_chunks(tokenizer: AudioTokenizer, audio: np.ndarray, chunk_ms: float) -> tuple[np.ndarray, dict]:
    """(T,) at `RATE` -> the same again, as the codec gives it piece by piece, and facts."""
    (wave,) = load_waves(audio, RATE, tokenizer)
    began = time.perf_counter()
    again = _streamed(tokenizer, wave) if tokenizer.codec.is_causal else _in_pieces(tokenizer, wave, chunk_ms)
    facts = {"bit_rate": tokenizer.bits_per_second, "rtf": len(audio) / RATE / (time.perf_counter() - began)}
    return fit_length(resample(again, tokenizer.output_sampling_rate, RATE), len(audio)), facts


def _in_pieces(tokenizer: AudioTokenizer, wave: torch.Tensor, chunk_ms: float) -> np.ndarray:
    pieces = list(wave.split(round(chunk_ms / 1000 * tokenizer.sampling_rate)))
    ids = [tokenizer.pattern.apply(codes) for codes in tokenizer.encode_codes(pieces)]
    return np.concatenate(tokenizer.batch_decode(ids, num_samples=[len(piece) for piece in pieces]))


def _streamed(tokenizer: AudioTokenizer, wave: torch.Tensor) -> np.ndarray:
    stream = tokenizer.codec.stream()
    wave = torch.nn.functional.pad(wave, (0, -len(wave) % stream.chunk_length))
    pieces = [stream.decode(stream.encode(chunk[None])) for chunk in wave.split(stream.chunk_length)]
    return torch.cat([piece.flatten() for piece in pieces]).float().cpu().numpy()
