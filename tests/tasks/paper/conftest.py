"""What the tables are measured on in the tests: seconds of bundled speech, and models trained for two updates."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer
from focallm.data.tokenization import tokenize_corpus
from focallm.lm.loading import INSIDE
from focallm.tasks.evaluation.probes import probe
from focallm.tasks.paper.ablation import RECIPES
from focallm.tasks.paper.downstream import MODELS, PROBES
from focallm.tasks.paper.table_config import TableConfig
from focallm.tasks.training.train_codec import train_stages
from focallm.tasks.training.train_lm import train_task
from focallm.tokenizer import AudioTokenizer, read_audio, write_audio
from focallm.tokenizer.files import load_config, read_yaml

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "tasks" / "samples"
CONFIGS = ROOT / "configs"
SPOKEN = {  # sample -> what it says, and in what mood, for want of a better one
    "sample": ("Liam will return with two tickets.", "neutral"),
    "talker": ("The train to the station leaves in twelve minutes.", "happy"),
}
MIXES = {
    "noisy": {"kind": "noisy", "noise": {"coloured": 1.0}, "snr_db": [5, 5]},
    "mixture": {"kind": "mixture", "talkers": [2, 2], "offset_s": [0.3, 0.3], "level_difference_db": [0, 0]},
}
PIECES, PIECE_S = 6, 1.2  # of each sample, for the probes
STACK: dict[str, Any] = {"hidden_dims": [16], "factors": [1], "num_heads": 2}
TINY: dict[str, dict[str, Any]] = {
    "compressor": STACK,
    "decompressor": STACK,
    "decoder": {"num_layers": 1, "dim": 16, "ffn_dim": 32, "channels": 16},
}
REWRITING = {"se": "noisy", "ss": "mixture", "ss-features": "mixture"}  # task -> store, beside se-features
LM: dict[str, Any] = {
    "model": "tiny",
    "validation_fraction": 0.2,
    "evaluate": {"samples": 0},
    "trainer": {"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no", "report_to": []},
}
PROBE = {"hidden_size": 16, "num_layers": 1, "epochs": 2, "batch_size": 4, "validation": 0.2, "test": 0.2}


@pytest.fixture(scope="session")
def table_config(tmp_path_factory) -> TableConfig:
    """A config for which every table has measured rows; the models that the tables need are trained here."""
    folder = tmp_path_factory.mktemp("tables")
    speech, pieces, runs = folder / "speech", folder / "pieces", folder / "runs"
    _write_speech(speech)
    _write_pieces(pieces)
    for name, recipe in MIXES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    for name in ("vocos", *RECIPES):
        train_tiny(name, pieces, folder)
    items, codec = read_corpus(pieces), AudioTokenizer.from_pretrained("mini")
    tokenize_corpus(items, folder / "plain", codec)
    (folder / "probe.yaml").write_text(yaml.safe_dump(PROBE))
    for task in PROBES:
        probe(task, folder / "plain", runs / "mini" / task, folder / "probe.yaml", "mini", quiet=True)
    for name in MIXES:
        mixer = Mixer(load_config(MixConfig, folder / f"{name}.yaml"), items)
        tokenize_corpus(mixer, folder / name, codec, features=True)
    extra_tasks = [{"task": task, "store": str(folder / name)} for task, name in REWRITING.items()]
    (folder / "lm.yaml").write_text(yaml.safe_dump({**LM, "extra_tasks": extra_tasks}))
    rewriter = runs / "rewriter"
    train_task("se-features", folder / "noisy", rewriter, folder / "lm.yaml", "mini", quiet=True)
    for task in MODELS:
        model = runs / "mini" / task / "model"
        model.parent.mkdir(parents=True)
        model.symlink_to(INSIDE["mini"] if task == "tts" else rewriter / "model")
    return TableConfig(
        data=[speech],
        mix=[folder / f"{name}.yaml" for name in MIXES],
        runs=runs,
        model=str(rewriter / "model"),
        record=folder / "record.jsonl",
    )


def train_tiny(name: str, corpus: Path, folder: Path) -> None:
    """Two updates of a row of the ablation, at a few channels, into `runs/ablation/NAME` of the folder."""
    values: dict[str, Any] = read_yaml(CONFIGS / "codec" / "ablation" / f"{name}.yaml")
    values |= {"steps": 2, "batch_size": 2, "seconds": 0.4, "validation_files": 1}
    parts: dict[str, dict[str, Any]] = values["model"]
    for part, small in TINY.items():
        parts[part] |= {key: value for key, value in small.items() if key in parts[part]}
    recipe = folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(values))
    with _inside(folder):  # recipes name each other's runs
        train_stages(recipe, corpus, Path("runs/ablation") / name, None, None, quiet=True)


def _write_speech(folder: Path) -> None:
    rows = [
        {"id": name, "audio": str(SAMPLES / f"{name}.flac"), "text": text, "speaker": name}
        for name, (text, _) in SPOKEN.items()
    ]
    _write_manifest(folder, rows)


def _write_pieces(folder: Path) -> None:
    rows = []
    for name, (text, emotion) in SPOKEN.items():
        audio, rate = read_audio(SAMPLES / f"{name}.flac")
        size, step = round(PIECE_S * rate), (len(audio) - round(PIECE_S * rate)) // PIECES
        for i in range(PIECES):
            file = f"{name}_{i}.flac"
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(folder / file, audio[i * step : i * step + size], rate)
            rows.append({"id": f"{name}_{i}", "audio": file, "text": text, "speaker": name, "emotion": emotion})
    _write_manifest(folder, rows)


def _write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
