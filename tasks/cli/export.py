"""The command that exports a model for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal


def export(format: Literal["onnx", "gguf", "vllm"], model: str, out: Path, dtype: str | None = None) -> str:
    """Write a model in the format of another program.

    Args:
        format: Format to write. onnx is for ONNX Runtime, in any language and in browsers; gguf for llama.cpp; vllm for
            the server of vLLM.
        model: mini, a folder or a hub id. As onnx, a speech language model is exported with its codec, a codec alone.
            As gguf and vllm, a language model is exported without its codec.
        out: Folder to write; for gguf a file.
        dtype: Type of the weights: for onnx float32 (the default) or int8, for gguf float32 (the default) or float16.
    """
    if format == "gguf":
        from ..export.gguf import export_gguf

        return export_gguf(model, out, dtype or "float32")
    if format == "vllm":
        from ..export.vllm import export_vllm

        if dtype is not None:
            raise ValueError("dtype does not apply to vllm: vllm serve has the option --dtype")
        return export_vllm(model, out)
    from ..export.onnx import export_onnx

    return export_onnx(model, out, dtype or "float32")


COMMANDS: dict[str, Callable[..., str | None]] = {"export": export}
