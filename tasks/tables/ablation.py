"""Table 6: the parts of FocalCodec, each replaced by another. The recipes of the rows are in configs/codec/ablation."""

from pathlib import Path

from ...tokenizer import AudioTokenizer
from ..evaluation import choose, codec_systems, read_with_texts
from ..measurement import RECORDING, judge, mean, word_cells
from ..metrics import Line, load_scorers

# Name of a recipe -> what it changes, and the word error rate in % that the paper reports for it (LibriTTS, LibriSpeech
# test-clean, Whisper small, against the transcript of the original). None: not among the figures known here.
ROWS: dict[str, tuple[str, float | None]] = {
    "focal": ("focal modulation, Snake, BSQ, Vocos", 2.54),
    "conformer": ("compressor and decompressor: Conformer", 3.58),
    "amp": ("compressor and decompressor: AMP", 4.52),
    "linear": ("compressor and decompressor: linear", None),
    "leaky_relu": ("activation: leaky ReLU", None),
    "lfq": ("quantizer: LFQ", 2.75),
    "hifigan": ("decoder: HiFi-GAN", None),
    "wavenext": ("decoder: WaveNeXt", None),
}


def ablation_table(runs: Path, data: Path, limit: int, scorer: str, seed: int) -> str:
    """-> a Markdown table of the rows that are trained, and the commands that train the others.

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
    done = [name for name in ROWS if (runs / name / "model").is_dir()]
    missing = [name for name in ROWS if name not in done]
    commands = [
        f"focallm train-codec configs/codec/ablation/{name}.yaml CORPUS {runs}/{name}"
        for name in (["vocos"] if not (runs / "vocos" / "model").is_dir() else []) + missing
    ]
    if not done:
        raise OSError(f"{runs} holds no row of the ablation; train them first:\n" + "\n".join(commands))
    items = choose(read_with_texts(data), limit, seed)
    metrics, ids = load_scorers("mel", None if scorer == "mel" else scorer), [item.id for item in items]
    lines = [
        f"Table 6 on {data.name}, n = {len(items)}, seed {seed}, scorer {Path(scorer).name}",
        "",
        "| | parameters, M | published WER, % | here, % (95 % interval) | items above 50 % | mel distance |",
        "|---|---|---|---|---|---|",
    ]
    for name in done:
        tokenizer = AudioTokenizer.from_pretrained(runs / name / "model")
        found = judge(codec_systems(items, tokenizer, name), ids, metrics)
        if name == done[0]:
            lines.append(f"| recording | | | {_cells(found[RECORDING], seed)} |")
        change, published = ROWS[name]
        millions = sum(p.numel() for p in tokenizer.codec.parameters()) / 1e6
        shown = "not known here" if published is None else f"{published:.2f}"
        lines.append(f"| {change} | {millions:.1f} | {shown} | {_cells(found[name], seed)} |")
    if commands:
        lines += ["", "Not trained yet:", *(f"    {command}" for command in commands)]
    return "\n".join(lines)


def _cells(lines: list[Line], seed: int) -> str:
    return " | ".join([*word_cells(lines, seed), mean(lines, "mel", 3)])
