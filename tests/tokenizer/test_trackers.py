"""Training reports to experiment trackers."""

import json
import os
import subprocess
import sys

import pytest
from accelerate import Accelerator
from accelerate.utils import LoggerType

from focallm.lm.training.recipe import LMRecipe, training_arguments
from focallm.tasks.training.train_codec import train_stages
from focallm.tokenizer.training.logging import RunLogger
from focallm.tokenizer.training.trackers import check_tracker

WANDB = """
log_lines = []

class config:
    @staticmethod
    def update(values, allow_val_change):
        pass

def init(project, **options):
    log_lines.append(["init", project, options])
    return Run()

class Run:
    def log(self, values, step=None, **options):
        log_lines.append(["log", step, values])
    def finish(self):
        log_lines.append(["finish"])
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """An installed package wandb that keeps what is logged."""
    site = tmp_path / "site"
    (site / "wandb-0.1.dist-info").mkdir(parents=True)
    (site / "wandb-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 0.1\n")
    (site / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    # accelerate looks for trackers when it is imported.
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    import wandb

    return wandb


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_tracker_is_named_before_training(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    advice = "focallm\\[train\\]" if name == "tensorboard" else f"pip install {name}, or --report-to none"
    with pytest.raises(ImportError, match=advice):
        check_tracker(name)
    with pytest.raises(ImportError, match=advice):
        train_stages(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", None, None, True, name)
    with pytest.raises(ImportError, match=advice):
        training_arguments(LMRecipe(trainer={"report_to": name, "use_cpu": True}), tmp_path / "run")
    check_tracker("none")


def test_a_language_model_reports_to_what_it_is_told(tmp_path, wandb):
    for name, expected in (("none", []), ("wandb", ["wandb"]), (None, ["tensorboard"])):
        trainer = {"use_cpu": True} if name is None else {"use_cpu": True, "report_to": name}
        arguments = training_arguments(LMRecipe(trainer=trainer), tmp_path / "run")
        assert arguments.report_to == expected
        assert (arguments.project, arguments.run_name) == ("focallm", "run")


def test_metrics_of_a_codec_reach_the_tracker(tmp_path, wandb):
    folder = tmp_path / "mini" / "joint"
    folder.mkdir(parents=True)
    logger = RunLogger(folder, 16000, Accelerator(cpu=True, log_with="wandb", project_dir=folder), "wandb")
    logger.write(3, {"loss": 0.5})
    logger.write_samples(3, [])
    logger.close()
    assert wandb.log_lines == [
        ["init", "focallm", {"name": "mini/joint"}],
        ["log", 3, {"loss": 0.5}],
        ["finish"],
    ]
    assert json.loads((folder / "log.jsonl").read_text())["loss"] == 0.5


def test_tensorboard_keeps_its_folder_and_none_writes_none(tmp_path):
    for name in ("tensorboard", "none"):
        folder = tmp_path / name
        folder.mkdir()
        log_with = None if name == "none" else name
        logger = RunLogger(folder, 16000, Accelerator(cpu=True, log_with=log_with, project_dir=folder), name)
        logger.write(1, {"loss": 0.5})
        logger.close()
        assert (folder / "losses.csv").is_file()
        assert (folder / "tensorboard").is_dir() == (name == "tensorboard")
    assert any(path.name.startswith("events") for path in (tmp_path / "tensorboard" / "tensorboard").iterdir())


@pytest.mark.slow
def test_trackio_keeps_the_metrics(tmp_path):
    """In a process of its own, because trackio reads its folder from the environment when it is imported."""
    pytest.importorskip("trackio")
    code = """
from pathlib import Path
from accelerate import Accelerator
from focallm.tokenizer.training.logging import RunLogger
folder = Path("mini", "decoder")
folder.mkdir(parents=True)
logger = RunLogger(folder, 16000, Accelerator(cpu=True, log_with="trackio", project_dir=folder), "trackio")
logger.write(1, {"loss": 0.25})
logger.close()
import trackio
print(trackio.Api().runs("focallm")[0].name)
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "mini/decoder" in result.stdout
    assert any((tmp_path / "trackio").iterdir())
