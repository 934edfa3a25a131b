"""Tables 1, 7 and 8: what codecs are, what they learnt from, and TS3-Codec."""

from collections.abc import Mapping
from typing import Any

from ...lm.embeddings import code_vectors
from ...tokenizer import AudioTokenizer
from ...tokenizer.codecs.ts3_codec import TS3Codec, TS3CodecConfig, TS3CodecModel
from ..evaluation.metrics import codec_cost
from .columns import columns_of
from .published import published
from .rendering import Cell, Row, Table
from .resynthesis import clean_table
from .table_config import TableConfig

NO_WEIGHTS = "TS3-Codec has no public weights: what is measured of it is its architecture."


def codecs_table(config: TableConfig) -> Table:
    """Table 1: rates, sizes and costs of every codec."""
    rows = published(1) + [Row(one.name, facts(one.tokenizer)) for one in config.baselines if one.tokenizer]
    return Table("Table 1: the codecs", columns_of(rows), rows, ["MACs: of a second of audio, encoded and decoded."])


def data_table(config: TableConfig) -> Table:
    """Table 7: what the codecs were trained on, as their authors say."""
    rows = published(7)
    return Table("Table 7: training data of the codecs", columns_of(rows), rows)


def ts3_table(config: TableConfig) -> Table:
    """Table 8: TS3-Codec beside other codecs, on the first corpus."""
    clean = clean_table(config)
    known = {one.name: facts(one.tokenizer) for one in config.baselines if one.tokenizer}
    ours = AudioTokenizer(TS3Codec(TS3CodecModel(TS3CodecConfig())))
    rows = [
        *published(8),
        Row("TS3-Codec (X2)", facts(ours)),
        *(Row(row.name, {**known.get(row.name, {}), **row.cells}) for row in clean.rows if not row.source),
    ]
    return Table("Table 8: TS3-Codec", columns_of(rows), rows, [*clean.notes, NO_WEIGHTS])


def facts(tokenizer: AudioTokenizer) -> Mapping[str, Cell]:
    """The cells that follow from a codec itself."""
    codec: Any = tokenizer.codec
    vectors, cost = code_vectors(tokenizer)[0], codec_cost(tokenizer)
    return {
        "bit_rate": tokenizer.bits_per_second / 1000,
        "sampling_rate": tokenizer.sampling_rate / 1000,
        "frame_rate": tokenizer.frame_rate,
        "codebooks": tokenizer.num_codebooks,
        "codebook_size": codec.config.codebook_size,
        "code_width": vectors.shape[1],
        "params": cost.parameters / 1e6,
        "macs": (cost.encoder_macs + cost.decoder_macs) / 1e9,
    }
