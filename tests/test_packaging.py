"""What is installed: every folder with code is a package, and missing extras are named."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def installed_packages() -> list[str]:
    spec = importlib.util.spec_from_file_location("focallm_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.list_packages()


def test_every_folder_with_code_is_installed(monkeypatch):
    monkeypatch.chdir(ROOT)
    expected = {"focallm"}
    for folder in ROOT.iterdir():
        if (folder / "__init__.py").is_file() and folder.name != "focallm":
            expected |= {".".join(("focallm", *path.parent.relative_to(ROOT).parts)) for path in folder.rglob("*.py")}
    assert len(expected) > 10
    assert set(installed_packages()) == expected


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("tabulate", "focallm.tasks.paper.rendering", "eval"),
        ("psutil", "focallm.tasks.benchmarks.codec", "eval"),
        ("tensorboard", "focallm.tokenizer.training.logging", "train"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(missing, module, extra):
    code = f"import sys; sys.modules['{missing}'] = None; import {module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{missing}: pip install 'focallm[{extra}]'" in result.stderr
