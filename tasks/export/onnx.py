"""Codecs and speech LMs as ONNX graphs, with their metadata and a program that speaks.

A folder holds `encoder.onnx` and `decoder.onnx` of the codec, `prefill.onnx` and `decode_step.onnx` of a speech LM with
their weights in `lm.data`, the metadata `model.json`, and for a model of aligned speech `lexicon.json` and `speak.py`.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...data.phonemes import PAUSES, WORD_START, word_units
from ...lm import SpeechLM
from ...lm.features import language_model, max_positions
from ...lm.loading import is_speech_lm
from ...lm.pieces import MAX_UNITS
from ...tokenizer import AudioTokenizer, FocalCodecModel
from ...tokenizer.files import whole_files
from .graphs import CodecDecoder, CodecEncoder, LanguageModel, cache_shape

try:
    import onnx
    import onnxruntime  # noqa: F401  # int8 and speak.py need it
    import onnxscript  # noqa: F401  # torch needs it to export
    from onnx.external_data_helper import set_external_data
except ImportError:
    raise ImportError("export needs onnx, onnxruntime and onnxscript: pip install 'focallm[export]'") from None

OPSET = 20
DTYPES = ("float32", "int8")
_SPEECH = "tts-aligned"  # the task that speak.py carries out
_DYNAMIC: Any = torch.export.Dim.DYNAMIC
# What ONNX Runtime multiplies int8 weights with. The codes of an encoder are signs, which need float32; a step of a
# language model takes four times as long with it.
_FLOAT_PRODUCTS = 1
_INT8_PRODUCTS = 4
_EXTERNAL_BYTES = 1024  # weights of at least this size are stored outside of the graphs that share them


def export_onnx(source: str | Path, out: Path, dtype: str = "float32") -> str:
    """Write the graphs of a codec, or of a speech LM and its codec.

    Args:
        source: "mini", a folder or a hub id.
        out: folder to write.
        dtype: of the weights. With "int8", matrices have 8 bits; convolutions and embeddings stay in float32.

    Returns:
        What was written, for people.

    Raises:
        OSError: There is no such model.
        ValueError: The type is unknown, the codec is no FocalCodec, or the LM reads features or keeps no plain cache.
    """
    if dtype not in DTYPES:
        raise ValueError(f"for onnx, dtype must be {' or '.join(DTYPES)}, found {dtype!r}")
    lm = None
    # Sources without a speech LM get their errors from the loader of codecs, which names what it looked for.
    if is_speech_lm(source):
        lm = SpeechLM.from_pretrained(source)
        check_exportable(lm)
    tokenizer = AudioTokenizer.from_pretrained(source) if lm is None else lm.audio_tokenizer
    codec = tokenizer.codec
    if not isinstance(codec, FocalCodecModel):
        raise ValueError(f"only FocalCodecs can be exported to onnx, found {type(codec).__name__}")

    with whole_files(out) as folder, torch.no_grad():
        info: dict[str, Any] = {"opset": OPSET, "dtype": dtype, "codec": export_codec(codec, folder)}
        if lm is not None:
            info["lm"] = export_lm(language_model(lm.model), folder)
            info["speech"] = speech_info(lm)
        if dtype == "int8":
            for path in folder.glob("*.onnx"):
                quantize(path, _INT8_PRODUCTS if path.stem in ("prefill", "decode_step") else _FLOAT_PRODUCTS)
        if lm is not None:
            share_weights([folder / "prefill.onnx", folder / "decode_step.onnx"], "lm.data")
            if info["speech"] is not None:
                (folder / "lexicon.json").write_text(json.dumps(lm.lexicon, ensure_ascii=False), encoding="utf-8")
                shutil.copyfile(Path(__file__).parent / "speak.py", folder / "speak.py")
        (folder / "model.json").write_text(json.dumps(info, ensure_ascii=False, indent=1), encoding="utf-8")
    sizes = []
    for path in sorted(out.iterdir()):
        sizes.append(f"{path.name} {path.stat().st_size / 1e6:.1f} MB")
    return f"{out}: {', '.join(sizes)}"


def check_exportable(lm: SpeechLM) -> None:
    """Raise a `ValueError` if the graphs cannot express a speech LM."""
    if language_model(lm.model) is not lm.model:
        raise ValueError(
            "this model reads continuous features or has adapters, which the graphs do not: merge() adapters first, or "
            "export a model that reads ids only"
        )


def export_codec(codec: FocalCodecModel, folder: Path) -> dict[str, Any]:
    """Write the graphs of a codec, and return its metadata."""
    config = codec.config
    samples = torch.zeros(2 * config.chunk_length + config.sampling_rate)
    codes = torch.zeros(3 * config.chunk_length // config.samples_per_token + 5, dtype=torch.long)
    return {
        "sampling_rate": config.sampling_rate,
        "output_sampling_rate": config.output_sampling_rate,
        "frame_rate": config.frame_rate,
        "codebook_size": config.codebook_size,
        "causal": config.causal,
        "chunk_samples": config.chunk_length,
        "encoder": {"state": _export_part(CodecEncoder(codec), "samples", samples, "codes", folder / "encoder.onnx")},
        "decoder": {"state": _export_part(CodecDecoder(codec), "codes", codes, "samples", folder / "decoder.onnx")},
    }


def _export_part(
    part: CodecEncoder | CodecDecoder, name: str, example: Tensor, output: str, path: Path
) -> list[dict[str, Any]]:
    """Write the encoder or the decoder of a codec, and describe the state with which its streams begin."""
    # The examples are those of a running stream: torch takes axes of length 0 for fixed ones.
    _, *tensors = part(example)
    names = part.state.names()
    shapes = tuple({part.state.growing_axis: _DYNAMIC} if key.startswith("cache") else None for key in names)
    write_graph(
        part,
        (example, *tensors),
        ({0: _DYNAMIC}, shapes) if names else ({0: _DYNAMIC},),
        [name, *names],
        [output, *(f"next_{key}" for key in names)],
        path,
    )
    description = []
    for key, tensor in zip(names, tensors, strict=True):
        shape = list(tensor.shape)
        if key.startswith("cache"):
            shape[part.state.growing_axis] = 0
        description.append({"name": key, "shape": shape, "dtype": str(tensor.dtype).removeprefix("torch.")})
    return description


def export_lm(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """Write the graphs of a causal LM, and return its metadata."""
    config: Any = model.config
    graph = LanguageModel(model)
    shape = cache_shape(model)
    ids = torch.arange(4)
    cache = torch.zeros(5, *shape)
    names = ["ids", "cache"]
    outputs = ["logits", "new_cache"]
    write_graph(graph, (ids, cache), ({0: _DYNAMIC}, {0: _DYNAMIC}), names, outputs, folder / "prefill.onnx")
    # A step is the same graph for a single id, so that the runtime can plan for that.
    step = onnx.load(folder / "prefill.onnx")
    step.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(step, folder / "decode_step.onnx")
    return {"cache_shape": shape, "vocab_size": config.vocab_size, "max_positions": max_positions(model)}


def speech_info(lm: SpeechLM) -> dict[str, Any] | None:
    """Return what speak.py needs beside the graphs; None for a model that does not align text and speech."""
    if _SPEECH not in lm.info.tasks or not lm.lexicon:
        return None
    vocabulary = lm.vocabulary
    units = {WORD_START, *PAUSES.values()}
    for phonemes in lm.lexicon.values():
        units.update(word_units(phonemes))
    template = lm.info.template(_SPEECH)
    voices = {}
    for voice in lm.info.voices:
        prompt = template.prompt(vocabulary, lm.unit_window(), units=[WORD_START], speaker=voice)
        # Without the units, which differ from text to text.
        voices[voice] = prompt.ids[: -len(vocabulary.text_ids(WORD_START)) - 1]
    return {
        "voices": voices,
        "units": {unit: vocabulary.text_ids(unit) for unit in sorted(units)},
        "max_units": MAX_UNITS,
        "frames_of_unit": lm.unit_window(),
        "first_code": vocabulary.audio_offset,
        "next": vocabulary.control("next"),
        "end": vocabulary.control("end"),
    }


def write_graph(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic_shapes: tuple[Any, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    path: Path,
) -> None:
    """Export a module."""
    # What a module computes in its first call and keeps would be a symbol without values otherwise.
    module(*inputs)
    with warnings.catch_warnings():
        # About the insides of torch.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # Nodes name the lines of the source that they come from, with the paths of this machine.
    for node in model.graph.node:
        node.ClearField("metadata_props")
    onnx.save(model, path)


def quantize(path: Path, accuracy_level: int) -> None:
    """Round the matrices of a graph to 8 bits, with a scale for each 32 weights.

    Scales for a whole matrix, and for all of its inputs, changed 98 % of the codes of "mini".
    """
    # Its import changes the logging of the whole program, so it is not at the top. It reports every node.
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger("onnxruntime").setLevel(logging.WARNING)
    quantizer = MatMulNBitsQuantizer(
        onnx.load(path), bits=8, block_size=32, is_symmetric=True, accuracy_level=accuracy_level
    )
    quantizer.process()
    onnx.save(quantizer.model.model, path)


def share_weights(paths: Sequence[Path], name: str) -> None:
    """Move the weights of graphs into one file beside them, which holds weights that are equal once."""
    offsets: dict[bytes, int] = {}
    with (paths[0].parent / name).open("wb") as file:
        for path in paths:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                content = tensor.raw_data
                if len(content) < _EXTERNAL_BYTES:
                    continue
                if content not in offsets:
                    offsets[content] = file.tell()
                    file.write(content)
                set_external_data(tensor, name, offsets[content], len(content))
                tensor.ClearField("raw_data")
            onnx.save(model, path)
