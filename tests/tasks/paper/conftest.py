"""What the tables are measured on in the tests: seconds of bundled speech, and models trained for two updates."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from focallm.data.corpus import read_corpus
from focallm.data.mixing.mix_config import MixConfig
from focallm.data.mixing.mixer import Mixer
from focallm.data.tokenization import tokenize_corpus
from focallm.lm.loading import PACKAGED_MODELS
from focallm.tasks.evaluation.probes.probing import probe
from focallm.tasks.paper.codecs import ABLATIONS
from focallm.tasks.paper.downstream import LM_TASKS, PROBES
from focallm.tasks.paper.table_config import TableConfig
from focallm.tasks.training.train_codec import train_stages
from focallm.tasks.training.train_lm import train_task
from focallm.tokenizer import AudioTokenizer, read_audio, write_audio
from focallm.tokenizer.configs import load_config, read_yaml

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "tasks" / "samples"
ABLATION_RECIPES = ROOT / "configs" / "codec" / "ablation"

# Bundled recording -> its text, and an emotion, so that the emotion probe has two classes.
RECORDINGS = {
    "sample": ("Liam will return with two tickets.", "neutral"),
    "speaker": ("The train to the station leaves in twelve minutes.", "happy"),
}
MIXES = {
    "noisy": {"kind": "noisy", "noise": {"colored": 1.0}, "snr_db": [5, 5]},
    "mixture": {"kind": "mixture", "num_speakers": [2, 2], "offset_s": [0.3, 0.3], "level_difference_db": [0, 0]},
}
# The probes need several utterances of each class: pieces of the recordings.
NUM_PIECES = 6
PIECE_S = 1.2

_STACK = {"hidden_dims": [16], "factors": [1], "num_heads": 2}
TINY_CODEC: dict[str, dict[str, Any]] = {
    "compressor": _STACK,
    "decompressor": _STACK,
    "decoder": {"num_layers": 1, "dim": 16, "ffn_dim": 32, "channels": 16},
}
TINY_PROBE = {"hidden_size": 16, "num_layers": 1, "epochs": 2, "batch_size": 4, "validation": 0.2, "test": 0.2}
TINY_LM: dict[str, Any] = {
    "model": "tiny",
    "validation_fraction": 0.2,
    "evaluate": {"samples": 0},
    "trainer": {"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no", "report_to": []},
}
# Task -> token store; trained together with se-features.
EXTRA_LM_TASKS = {"se": "noisy", "ss": "mixture", "ss-features": "mixture"}


@pytest.fixture(scope="session")
def table_config(tmp_path_factory: pytest.TempPathFactory) -> TableConfig:
    """A config with which every table has measured rows."""
    return make_table_config(tmp_path_factory.mktemp("tables"))


def make_table_config(folder: Path) -> TableConfig:
    """Write a corpus into a folder, train all that the tables need there, and return their config."""
    speech = folder / "speech"
    pieces = folder / "pieces"
    runs = folder / "runs"
    _write_recordings(speech)
    _write_pieces(pieces)
    for name in ("vocos", *ABLATIONS):
        _train_tiny_codec(name, pieces, folder)
    _train_probes(pieces, folder)
    rewriter = _train_rewriting_model(pieces, folder)
    for task in LM_TASKS:
        model = runs / "mini" / task / "model"
        model.parent.mkdir(parents=True)
        model.symlink_to(PACKAGED_MODELS["mini"] if task == "tts" else rewriter)
    return TableConfig(
        data=[speech],
        mix=[folder / f"{name}.yaml" for name in MIXES],
        runs=runs,
        model=str(rewriter),
        record=folder / "record.jsonl",
    )


def _train_tiny_codec(name: str, corpus: Path, folder: Path) -> None:
    """Train a row of the ablation for two updates, with few channels, into `runs/ablation/NAME` of the folder."""
    values: dict[str, Any] = read_yaml(ABLATION_RECIPES / f"{name}.yaml")
    values |= {"steps": 2, "batch_size": 2, "clip_seconds": 0.4, "validation_files": 1}
    for part, sizes in TINY_CODEC.items():
        fields = values["model"][part]
        fields |= {key: copy.copy(value) for key, value in sizes.items() if key in fields}
    recipe = folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)  # recipes name the runs of each other by relative paths
        train_stages(recipe, corpus, Path("runs/ablation") / name, None, None, quiet=True)


def _train_probes(pieces: Path, folder: Path) -> None:
    store = folder / "plain"
    tokenize_corpus(read_corpus(pieces), store, AudioTokenizer.from_pretrained("mini"))
    recipe = folder / "probe.yaml"
    recipe.write_text(yaml.safe_dump(TINY_PROBE))
    for task in PROBES:
        probe(task, store, folder / "runs" / "mini" / task, recipe, "mini", quiet=True)


def _train_rewriting_model(pieces: Path, folder: Path) -> Path:
    """Train a model of enhancement and separation, from codes and from features; return its folder."""
    corpus = read_corpus(pieces)
    tokenizer = AudioTokenizer.from_pretrained("mini")
    for name, mix in MIXES.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(mix))
        tokenize_corpus(Mixer(load_config(MixConfig, path), corpus), folder / name, tokenizer, features=True)
    extra_tasks = [{"task": task, "store": str(folder / store)} for task, store in EXTRA_LM_TASKS.items()]
    recipe = folder / "lm.yaml"
    recipe.write_text(yaml.safe_dump({**TINY_LM, "extra_tasks": extra_tasks}))
    run = folder / "runs" / "rewriter"
    train_task("se-features", folder / "noisy", run, recipe, "mini", quiet=True)
    return run / "model"


def _write_recordings(folder: Path) -> None:
    rows = []
    for name, (text, _) in RECORDINGS.items():
        rows.append({"id": name, "audio": str(SAMPLES / f"{name}.flac"), "text": text, "speaker": name})
    _write_manifest(folder, rows)


def _write_pieces(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = []
    for name, (text, emotion) in RECORDINGS.items():
        audio, rate = read_audio(SAMPLES / f"{name}.flac")
        size = round(PIECE_S * rate)
        step = (len(audio) - size) // NUM_PIECES
        for i in range(NUM_PIECES):
            file = f"{name}_{i}.flac"
            write_audio(folder / file, audio[i * step : i * step + size], rate)
            rows.append({"id": f"{name}_{i}", "audio": file, "text": text, "speaker": name, "emotion": emotion})
    _write_manifest(folder, rows)


def _write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
