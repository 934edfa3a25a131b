"""Tables 1 and 7: rates, sizes and costs of codecs, and their training data."""

from collections.abc import Mapping

from ...lm.embeddings import code_vectors
from ...tokenizer.audio_tokenizer import AudioTokenizer
from ..evaluation.metrics.codec import codec_cost
from .published import published_rows
from .rendering import Cell, Row, Table, used_columns
from .table_config import TableConfig


def codecs_table(config: TableConfig) -> Table:
    """Return Table 1: rates, sizes and costs of every codec."""
    rows = published_rows(1)
    for baseline in config.baselines:
        if baseline.tokenizer is not None:
            rows.append(Row(baseline.name, codec_facts(baseline.tokenizer)))
    notes = ["MACs: of a second of audio, encoded and decoded."]
    return Table("Table 1: the codecs", used_columns(rows), rows, notes)


def training_data_table(config: TableConfig) -> Table:
    """Return Table 7: what the codecs were trained on. All rows are published."""
    rows = published_rows(7)
    return Table("Table 7: training data of the codecs", used_columns(rows), rows)


def codec_facts(tokenizer: AudioTokenizer) -> Mapping[str, Cell]:
    """Return the cells that depend only on the codec: kbps, kHz, frames/s, million parameters and GMACs."""
    first_codebook, *_ = code_vectors(tokenizer)
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
