"""Table 6: the parts of FocalCodec, each replaced by another. The recipes of the rows are in configs/codec/ablation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...tokenizer import AudioTokenizer
from ..evaluation import choose, codec_systems, read_with_texts
from ..measurement import RECORDING, Line, Scorers, judge, word_rates
from .columns import columns_of
from .published import published
from .rendering import Cell, Interval, Row, Table

RECIPES = ("focal", "hifigan", "lfq", "leaky_relu", "conformer", "amp", "linear", "wavenext")
DIFFERENCES = (
    "A measured row differs from focal in one part; all published ones but focal have HiFi-GAN, from lfq on LFQ, too.",
    "WER counts against the transcripts of the corpus; published dWER against what Whisper small hears in originals.",
)


def ablation_table(runs: Path, data: Path, limit: int, scorer: str, seed: int) -> Table:
    """-> the published rows, those that are trained, and, as notes, the commands that train the others

    Args:
        runs: folder with a run for each row, named as its recipe.
        data: recordings with transcripts that were not trained on; every row hears the same.
        limit: only this many of them, chosen by the seed; 0 for all.
        scorer: "mel", or the folder of a Whisper model for faster-whisper.
        seed: of the choice and of the intervals.

    Raises:
        OSError: no row is trained.
        ValueError: recordings without transcripts.
    """
    done = [name for name in RECIPES if (runs / name / "model").is_dir()]
    vocos = [] if (runs / "vocos" / "model").is_dir() else ["vocos"]  # trained first: its decoder is in most rows
    commands = [
        f"focallm train-codec configs/codec/ablation/{name}.yaml CORPUS {runs}/{name}"
        for name in vocos + [name for name in RECIPES if name not in done]
    ]
    if not done:
        raise OSError(f"{runs} holds no row of the ablation; train them first:\n" + "\n".join(commands))
    items = choose(read_with_texts(data), limit, seed)
    scorers, ids = Scorers(None if scorer == "mel" else scorer), [item.id for item in items]
    rows = published(6)
    for name in done:
        tokenizer = AudioTokenizer.from_pretrained(runs / name / "model")
        found = judge(codec_systems(items, tokenizer, name, scorers), ids, scorers)
        if name == done[0]:
            rows.append(Row(RECORDING, _judged(found[RECORDING], seed)))
        rows.append(Row(name, _parts(tokenizer) | _judged(found[name], seed)))
    notes = [
        f"Measured on {data.name}, n = {len(items)}, seed {seed}, scorer {Path(scorer).name}; intervals of 95 %.",
        *DIFFERENCES,
        *(f"Not trained yet: {command}" for command in commands),
    ]
    return Table("Table 6: the parts of FocalCodec", columns_of(rows), rows, notes)


def _parts(tokenizer: AudioTokenizer) -> dict[str, Cell]:
    config = tokenizer.codec.config
    return {
        "compressor": config.compressor.get("type", "focal"),
        "activation": config.compressor_config.activation,
        "quantizer": config.quantizer_config.type,
        "decoder": config.decoder["type"],
        "params": sum(p.numel() for p in tokenizer.codec.parameters()) / 1e6,
    }


def _judged(lines: Sequence[Line], seed: int) -> dict[str, Cell]:
    distances = [line["mel"] for line in lines if "mel" in line]  # the recordings have none
    cells: dict[str, Cell] = {"mel": float(np.mean(distances))} if distances else {}
    if rates := word_rates(lines, seed):
        cells |= {"wer": Interval(*rates[:3]), "failed": rates[3]}
    return cells
