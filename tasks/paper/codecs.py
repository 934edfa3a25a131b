"""Tables 1 to 3 and 6 to 9: facts about codecs, and what they preserve of speech. T samples."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from ...data.mixing.mixer import Mixer, Premixed
from ...data.utterance import AudioExample, Utterance
from ...tokenizer.audio_tokenizer import AudioTokenizer
from ...tokenizer.codecs.ts3_codec import TS3Codec, TS3CodecConfig, TS3CodecModel
from ...tokenizer.waveform import resample
from ..evaluation.baselines import Baseline, baseline_system, codec_baseline, fit_length, unchanged
from ..evaluation.metrics.codec import codec_cost
from ..evaluation.metrics.metric import RATE
from ..inference.inputs import load_waves
from .measured import REFERENCE, item_ids, measured_row
from .published import published_rows
from .rendering import Cell, Row, Table, used_columns
from .table_config import TableConfig

# The rows of Table 6: names of the recipes in configs/codec/ablation.
ABLATIONS = ("focal", "hifigan", "lfq", "leaky_relu", "conformer", "amp", "linear", "wavenext")
_ABLATION_NOTE = (
    "A measured row differs from focal in one part. All published rows but focal have HiFi-GAN, and those from lfq on "
    "also have LFQ."
)

_CHUNKS_MS = (125.0, 250.0, 500.0)  # of codecs that are not causal
_STREAMING_NOTE = (
    "Measured chunks of a codec that is not causal are encoded and decoded one by one, without context. A causal "
    "FocalCodec is streamed at its own chunk size, with the same output as offline."
)


def codecs_table(config: TableConfig) -> Table:
    """Return Table 1: rates, sizes and costs of every codec."""
    rows = published_rows(1)
    for baseline in config.baselines:
        if baseline.tokenizer is not None:
            rows.append(Row(baseline.name, codec_facts(baseline.tokenizer)))
    notes = ["MACs: to encode and decode a second of audio."]
    return Table("Table 1: the codecs", used_columns(rows), rows, notes)


def codec_facts(tokenizer: AudioTokenizer) -> Mapping[str, Cell]:
    """Return the cells that depend only on the codec: kbps, kHz, frames/s, million parameters and GMACs."""
    first_codebook, *_ = tokenizer.codec.code_vectors()
    cost = codec_cost(tokenizer)
    return {
        "bit_rate": tokenizer.bits_per_second / 1000,
        "sampling_rate": tokenizer.sampling_rate / 1000,
        "frame_rate": tokenizer.frame_rate,
        "codebooks": tokenizer.num_codebooks,
        "codebook_size": tokenizer.codec.config.codebook_size,
        "code_width": first_codebook.shape[1],
        "params": cost.parameters / 1e6,
        "macs": (cost.encoder_macs + cost.decoder_macs) / 1e9,
    }


def clean_table(config: TableConfig) -> Table:
    """Return Table 2: every codec on every corpus, and the recordings themselves."""
    rows = published_rows(2)
    for test_set, corpus in config.corpora.items():
        rows += resynthesis_rows(config, test_set, corpus, [unchanged(REFERENCE), *config.baselines])
    return Table("Table 2: clean speech resynthesized", used_columns(rows), rows, config.notes())


def resynthesis_rows(
    config: TableConfig, test_set: str, corpus: list[Utterance], baselines: Sequence[Baseline]
) -> list[Row]:
    """Measure codecs on clean speech, and return a row for each.

    Args:
        config: what to measure with.
        test_set: name of the corpus.
        corpus: its utterances; the config may choose a few of them.
        baselines: the codecs.
    """
    items = config.choose(corpus)

    # The recording is the input of a codec and what its output is compared with.
    @lru_cache(maxsize=1)
    def recording(i: int) -> np.ndarray:
        audio, _ = items[i].read(RATE)
        return audio

    systems = [baseline_system(baseline, items, recording, recording) for baseline in baselines]
    results = config.evaluate(systems, items, item_ids(test_set, items))
    rows = []
    for name, item_results in results.items():
        rows.append(measured_row(name, item_results, config.seed, test_set=test_set))
    return rows


def noisy_table(config: TableConfig) -> Table:
    """Return Table 3: every codec on noisy recordings, compared with the clean ones; and both kinds of recordings."""
    rows = published_rows(3)
    for test_set, corpus in config.corpora.items():
        for mixer in config.mixers(corpus, "noisy"):
            rows += _noisy_rows(config, test_set, mixer)
    return Table("Table 3: noisy speech resynthesized", used_columns(rows), rows, config.notes())


def _noisy_rows(config: TableConfig, test_set: str, mixer: Mixer | Premixed) -> list[Row]:
    items = config.choose(mixer.rows)

    # An example holds both, and mixing it takes longer than most codecs.
    @lru_cache(maxsize=1)
    def example(i: int) -> AudioExample:
        return mixer.example(items[i], RATE)

    def noisy(i: int) -> np.ndarray:
        audio = example(i).input_audio
        assert audio is not None
        return audio

    def clean(i: int) -> np.ndarray:
        return example(i).target

    systems = [baseline_system(unchanged(REFERENCE), items, clean, clean)]
    for baseline in [unchanged("noisy"), *config.baselines]:
        systems.append(baseline_system(baseline, items, noisy, clean))
    results = config.evaluate(systems, items, item_ids(test_set, items, mixer))
    rows = []
    for name, item_results in results.items():
        rows.append(measured_row(name, item_results, config.seed, test_set=test_set))
    return rows


def ablation_table(config: TableConfig) -> Table:
    """Return Table 6: the codecs that are trained in `RUNS/ablation/ROW`, and the commands that train the others.

    Raises:
        ValueError: The config names no folder of runs.
        OSError: No row is trained.
    """
    if config.runs is None:
        raise ValueError("Table 6 needs trained codecs: give --runs FOLDER with a subfolder ablation/ROW for each")
    runs = config.runs / "ablation"
    tokenizers = {}
    commands = []
    # The decoder of vocos.yaml is part of most rows, so it is trained first. It is no row itself.
    for name in ("vocos", *ABLATIONS):
        model = runs / name / "model"
        if not model.is_dir():
            commands.append(f"focallm train-codec configs/codec/ablation/{name}.yaml CORPUS {runs}/{name}")
        elif name != "vocos":
            tokenizers[name] = AudioTokenizer.from_pretrained(model)
    if not tokenizers:
        raise OSError(f"{runs} holds no row of the ablation; train them first:\n" + "\n".join(commands))

    baselines = [unchanged(REFERENCE)]
    for name, tokenizer in tokenizers.items():
        baselines.append(codec_baseline(name, tokenizer))
    test_set, corpus = config.first_corpus
    rows = published_rows(6)
    for row in resynthesis_rows(config, test_set, corpus, baselines):
        parts: dict[str, Cell] = {}
        if row.name in tokenizers:
            parts = _codec_parts(tokenizers[row.name])
        rows.append(Row(row.name, {**parts, **row.cells}))
    notes = [*config.notes(), _ABLATION_NOTE]
    for command in commands:
        notes.append(f"Not trained yet: {command}")
    return Table("Table 6: the parts of FocalCodec", used_columns(rows), rows, notes)


def _codec_parts(tokenizer: AudioTokenizer) -> dict[str, Cell]:
    config = tokenizer.codec.config
    return {
        "compressor": config.compressor.get("type", "focal"),
        "activation": config.compressor_config.activation,
        "quantizer": config.quantizer_config.type,
        "decoder": config.decoder["type"],
        "params": sum(parameter.numel() for parameter in tokenizer.codec.parameters()) / 1e6,
    }


def training_data_table(config: TableConfig) -> Table:
    """Return Table 7: what the codecs were trained on. All rows are published."""
    rows = published_rows(7)
    return Table("Table 7: training data of the codecs", used_columns(rows), rows)


def ts3_table(config: TableConfig) -> Table:
    """Return Table 8: TS3-Codec beside the other codecs, with their figures of Tables 1 and 2."""
    # Only the architecture is measured, as there are no public weights.
    ts3_tokenizer = AudioTokenizer(TS3Codec(TS3CodecModel(TS3CodecConfig())))
    rows = [*published_rows(8), Row("TS3-Codec (X2)", codec_facts(ts3_tokenizer))]
    facts = {}
    for baseline in config.baselines:
        if baseline.tokenizer is not None:
            facts[baseline.name] = codec_facts(baseline.tokenizer)
    clean = clean_table(config)
    for row in clean.rows:
        if not row.source:
            rows.append(Row(row.name, {**facts.get(row.name, {}), **row.cells}))
    notes = [*clean.notes, "TS3-Codec has no public weights, so only its architecture is measured."]
    return Table("Table 8: TS3-Codec", used_columns(rows), rows, notes)


def streaming_table(config: TableConfig) -> Table:
    """Return Table 9: every codec on the first corpus, offline and in chunks."""
    test_set, corpus = config.first_corpus
    rows = published_rows(9)
    rows += resynthesis_rows(config, test_set, corpus, [unchanged(REFERENCE)])
    for baseline in config.baselines:
        tokenizer = baseline.tokenizer
        if tokenizer is None:
            continue
        causal = tokenizer.codec.is_causal
        # A causal codec gives the same output at any chunk size that it supports.
        chunks_ms = [stream_chunk_ms(tokenizer)] if causal else _CHUNKS_MS
        variants = [baseline]
        for chunk_ms in chunks_ms:
            variants.append(_chunked(baseline, tokenizer, chunk_ms))
        measured = resynthesis_rows(config, test_set, corpus, variants)
        for chunk_ms, row in zip([math.inf, *chunks_ms], measured, strict=True):
            cells = {**row.cells, "causal": "Yes" if causal else "No", "chunk_ms": chunk_ms}
            rows.append(Row(baseline.name, cells))
    return Table("Table 9: offline and in chunks", used_columns(rows), rows, [*config.notes(), _STREAMING_NOTE])


def _chunked(baseline: Baseline, tokenizer: AudioTokenizer, chunk_ms: float) -> Baseline:
    def process(audio: np.ndarray) -> tuple[np.ndarray, dict]:
        return resynthesize_in_chunks(tokenizer, audio, chunk_ms)

    return Baseline(f"{baseline.name}, {chunk_ms:g} ms", baseline.fingerprint, process)


def stream_chunk_ms(tokenizer: AudioTokenizer) -> float:
    """Return the length of the shortest chunk that a causal FocalCodec encodes."""
    return 1000 * tokenizer.codec.stream().chunk_length / tokenizer.sampling_rate


def resynthesize_in_chunks(
    tokenizer: AudioTokenizer, audio: np.ndarray, chunk_ms: float
) -> tuple[np.ndarray, dict[str, float]]:
    """Encode and decode audio chunk by chunk.

    Args:
        tokenizer: a causal codec is streamed; any other one encodes each chunk without context.
        audio: (T,) at `RATE`.
        chunk_ms: length of a chunk, for codecs that are not causal.

    Returns:
        The decoded audio (T,) at `RATE`, with its bit rate and its real-time factor.
    """
    (wave,) = load_waves(audio, RATE, tokenizer)
    start = time.perf_counter()
    if tokenizer.codec.is_causal:
        decoded = _stream(tokenizer, wave)
    else:
        chunks = list(wave.split(round(chunk_ms / 1000 * tokenizer.sampling_rate)))
        ids = [tokenizer.pattern.apply(codes) for codes in tokenizer.encode_codes(chunks)]
        decoded = np.concatenate(tokenizer.batch_decode(ids, num_samples=list(map(len, chunks))))
    seconds = time.perf_counter() - start
    facts = {"bit_rate": tokenizer.bits_per_second, "rtf": len(audio) / RATE / seconds}
    return fit_length(resample(decoded, tokenizer.output_sampling_rate, RATE), len(audio)), facts


def _stream(tokenizer: AudioTokenizer, wave: torch.Tensor) -> np.ndarray:
    stream = tokenizer.codec.stream()
    # The last chunk is filled up with silence.
    wave = torch.nn.functional.pad(wave, (0, -len(wave) % stream.chunk_length))
    decoded = []
    for chunk in wave.split(stream.chunk_length):
        codes = stream.encode(chunk[None])
        decoded.append(stream.decode(codes).flatten())
    return torch.cat(decoded).float().cpu().numpy()
