"""The command that exports a model for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal


def export(format: Literal["onnx"], model: str, out: Path, dtype: str | None = None) -> str:
    """Write a model in the format of another program.

    Args:
        format: Format to write. onnx is for ONNX Runtime, in any language and in browsers.
        model: mini, a folder or a hub id. A speech language model is exported with its codec, a codec alone.
        out: Folder to write.
        dtype: Type of the weights: for onnx float32 (the default) or int8.
    """
    from ..export.onnx import export_onnx

    return export_onnx(model, out, dtype or "float32")


COMMANDS: dict[str, Callable[..., str | None]] = {"export": export}
