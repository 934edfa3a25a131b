"""Models as ONNX graphs, with a program that speaks with onnxruntime and numpy only."""

from pathlib import Path


def export_onnx(source: str, out: Path, dtype: str = "float32") -> str:
    """Write the codec of a source and, if it is a speech LM, that, as ONNX graphs.

    Args:
        source: "mini", a folder or a hub id.
        out: folder to write.
        dtype: of the weights, "float32" or "int8".

    Returns:
        What was written, for people.

    Raises:
        ValueError: The type is unknown.
    """
    if dtype not in ("float32", "int8"):
        raise ValueError(f"dtype must be float32 or int8 for onnx, found {dtype!r}")
    raise NotImplementedError
