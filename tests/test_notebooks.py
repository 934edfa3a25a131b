from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

# Packages of extras that a notebook needs.
NEEDED = {"06_serve_and_export": ("fastapi", "openai", "onnxscript", "onnxruntime")}
SLOW = ("06_serve_and_export",)  # its parts are tested in tests/tasks
NOTEBOOKS = []
for path in sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb")):
    marks = [pytest.mark.slow] if path.stem in SLOW else []
    NOTEBOOKS.append(pytest.param(path, id=path.stem, marks=marks))


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    for module in NEEDED.get(path.stem, ()):
        pytest.importorskip(module)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
