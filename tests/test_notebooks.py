from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

# Packages of extras that a notebook needs.
NEEDED = {"06_serve_and_export": ("fastapi", "openai", "onnxscript", "onnxruntime")}
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    for module in NEEDED.get(path.stem, ()):
        pytest.importorskip(module)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
