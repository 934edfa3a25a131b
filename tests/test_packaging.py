"""The installed package: every folder with code is listed, and missing extras are named."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

ROOT = Path(__file__).parent.parent


def test_the_list_of_packages_is_complete():
    settings = read_configuration(ROOT / "pyproject.toml", expand=False)
    expected = {"focallm"}
    for name in ("tokenizer", "data", "lm", "tasks"):
        for path in (ROOT / name).rglob("*.py"):
            if "weights" in path.parts:  # copies of modules, for folders that open without this package
                continue
            expected.add(".".join(("focallm", *path.parent.relative_to(ROOT).parts)))
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has code but no __init__.py"
    packages = settings["tool"]["setuptools"]["packages"]
    assert len(packages) == len(set(packages))
    assert set(packages) == expected


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("tabulate", "focallm.tasks.paper.rendering", "eval"),
        ("psutil", "focallm.tasks.benchmarks.codec", "eval"),
        ("onnxscript", "focallm.tasks.export.onnx", "export"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(missing, module, extra):
    code = f"import sys; sys.modules['{missing}'] = None; import {module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{missing}: pip install 'focallm[{extra}]'" in result.stderr


def test_no_dependency_brings_torchaudio():
    """Its wheel on PyPI does not load beside a CPU wheel of torch, and then transformers does not load either."""
    for requirement in metadata.requires("focallm"):
        name = re.match(r"[\w.-]+", requirement).group()
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        for line in needed:
            assert not line.startswith("torchaudio") or "extra ==" in line, name
