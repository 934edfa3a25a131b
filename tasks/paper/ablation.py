"""Table 6: the parts of FocalCodec, each replaced by another. The recipes of the rows are in configs/codec/ablation."""

from ...tokenizer import AudioTokenizer
from ..evaluation.baselines import codec_baseline, unchanged
from .columns import columns_of
from .published import published
from .rendering import Cell, Row, Table
from .resynthesis import REFERENCE, notes, resynthesised
from .table_config import TableConfig

RECIPES = ("focal", "hifigan", "lfq", "leaky_relu", "conformer", "amp", "linear", "wavenext")
DIFFERENCE = (
    "A measured row differs from focal in one part; all published ones but focal have HiFi-GAN, from lfq on LFQ, too."
)


def ablation_table(config: TableConfig) -> Table:
    """The published rows, those that are trained (`RUNS/ablation/ROW`), and the commands that train the others.

    Raises:
        ValueError: no folder of runs.
        OSError: no row is trained.
    """
    if config.runs is None:
        raise ValueError("Table 6 is of trained codecs: give --runs FOLDER, which holds ablation/ROW each")
    runs = config.runs / "ablation"
    done = [name for name in RECIPES if (runs / name / "model").is_dir()]
    vocos = [] if (runs / "vocos" / "model").is_dir() else ["vocos"]  # trained first: its decoder is in most rows
    commands = [
        f"focallm train-codec configs/codec/ablation/{name}.yaml CORPUS {runs}/{name}"
        for name in vocos + [name for name in RECIPES if name not in done]
    ]
    if not done:
        raise OSError(f"{runs} holds no row of the ablation; train them first:\n" + "\n".join(commands))
    tokenizers = {name: AudioTokenizer.from_pretrained(runs / name / "model") for name in done}
    baselines = [unchanged(REFERENCE), *(codec_baseline(name, one) for name, one in tokenizers.items())]
    rows = published(6)
    for row in resynthesised(config, *config.first, baselines):
        parts = _parts(tokenizers[row.name]) if row.name in tokenizers else {}
        rows.append(Row(row.name, {**parts, **row.cells}))
    missing = [f"Not trained yet: {command}" for command in commands]
    return Table("Table 6: the parts of FocalCodec", columns_of(rows), rows, [*notes(config), DIFFERENCE, *missing])


def _parts(tokenizer: AudioTokenizer) -> dict[str, Cell]:
    config = tokenizer.codec.config
    return {
        "compressor": config.compressor.get("type", "focal"),
        "activation": config.compressor_config.activation,
        "quantizer": config.quantizer_config.type,
        "decoder": config.decoder["type"],
        "params": sum(p.numel() for p in tokenizer.codec.parameters()) / 1e6,
    }
