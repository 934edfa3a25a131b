"""Language models as GGUF files, for llama.cpp and the programs that are built on it.

The file holds the weights and the names of the ids, but no text tokenizer: prompts are given as ids. V ids, H width.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...lm.features import SpeechLMForConditionalGeneration, max_positions
from ...lm.vocabulary import Vocabulary
from ...tokenizer.files import whole_file
from .plain import load_plain, lost_tasks

if TYPE_CHECKING:
    from gguf import GGUFWriter

# By the `model_type` of transformers: the architecture of llama.cpp.
_ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
# Key of the metadata that holds what a client needs to know of the vocabulary, as JSON.
SPEECH_KEY = "focallm.speech"


def export_gguf(source: str, out: Path, dtype: str = "float32") -> str:
    """Write a speech LM as a GGUF file.

    Args:
        source: "mini", a folder or a hub id.
        out: file to write.
        dtype: of the matrices, "float32" or "float16".

    Returns:
        What was written, for people.

    Raises:
        ValueError: llama.cpp cannot run the model; the message says why.
        ImportError: The package gguf is missing.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise ImportError("the package gguf is missing: pip install 'focallm[export]'") from None
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16 for gguf, found {dtype!r}")
    if out.suffix != ".gguf":
        raise ValueError(f"{out} must be a file that ends in .gguf")
    lm = load_plain(source, "llama.cpp")
    if isinstance(lm.model, SpeechLMForConditionalGeneration):
        raise ValueError(f"{source} reads features, which llama.cpp does not: use the functions of focallm")
    config: Any = lm.model.config
    _check_config(config, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        writer = GGUFWriter(temporary, config.model_type)
        writer.add_context_length(max_positions(lm.model))
        _add_sizes(writer, config)
        _add_vocabulary(writer, lm.vocabulary, config.vocab_size)
        _add_weights(writer, lm.model, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB, {dtype}. Prompts are ids, see docs/export.md.{lost_tasks(lm)}"


def _check_config(config: Any, source: str) -> None:
    if config.model_type not in _ARCHITECTURES:
        raise ValueError(
            f"{source} is a {config.model_type}, and only {', '.join(_ARCHITECTURES)} can be written as GGUF here: use "
            "convert_hf_to_gguf.py of llama.cpp"
        )
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type != "default" or config.hidden_act != "silu" or getattr(config, "use_sliding_window", False):
        raise ValueError(
            f"{source} has rope_type {rope_type!r}, hidden_act {config.hidden_act!r} or a sliding window, which are "
            "not written as GGUF here: use convert_hf_to_gguf.py of llama.cpp"
        )


def _add_sizes(writer: "GGUFWriter", config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: "GGUFWriter", vocabulary: Vocabulary, num_rows: int) -> None:
    """Add the name of every id, so that the output can be read as `<|audio_7|>...`, and the control ids."""
    from gguf import TokenType

    names = vocabulary.tokenizer.convert_ids_to_tokens(list(range(len(vocabulary))))
    controls = set(vocabulary.controls.values())
    tokens = []
    types = []
    for i in range(num_rows):
        # llama.cpp wants as many names as rows, all of them different.
        name = names[i] if i < len(names) else None
        tokens.append(f"<|unused_{i}|>" if name is None else str(name))
        if name is None:
            types.append(TokenType.UNUSED)
        elif i in controls:
            types.append(TokenType.CONTROL)
        else:
            types.append(TokenType.USER_DEFINED if i in vocabulary.audio_range else TokenType.NORMAL)
    # The simplest kind of vocabulary that llama.cpp reads. It is not used to split text.
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * num_rows)
    writer.add_token_types(types)
    writer.add_eos_token_id(vocabulary.control("end"))
    writer.add_pad_token_id(vocabulary.control("pad"))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    speech = {
        "audio_offset": vocabulary.audio_offset,
        "codebook_sizes": list(vocabulary.codebook_sizes),
        "end_id": vocabulary.control("end"),
    }
    writer.add_string(SPEECH_KEY, json.dumps(speech))


def _add_weights(writer: "GGUFWriter", model: Any, dtype: str) -> None:
    import gguf

    config = model.config
    architecture = getattr(gguf.MODEL_ARCH, _ARCHITECTURES[config.model_type])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == "float32" else gguf.LlamaFileType.MOSTLY_F16)
    for key, tensor in model.state_dict().items():
        # llama.cpp uses the embedding as the head if there is none.
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"GGUF has no name for the weight {key} of a {config.model_type}")
        array = tensor.detach().float().cpu().numpy()
        if config.model_type == "llama":
            if "q_proj" in key:
                array = interleave_halves(array, config.num_attention_heads)
            elif "k_proj" in key:
                array = interleave_halves(array, config.num_key_value_heads)
        # Vectors stay in float32: they are small, and llama.cpp expects it.
        if array.ndim > 1 and dtype == "float16":
            array = array.astype(np.float16)
        writer.add_tensor(name, array)


def interleave_halves(rows: NDArray, num_heads: int) -> NDArray:
    """Reorder the rows of a query or key projection of a Llama.

    transformers rotates the first half of a head's dimensions with the second, llama.cpp each dimension with the next.

    Args:
        rows: (num_heads * D, H) or (num_heads * D,), where D is the width of a head.
        num_heads: number of heads.
    """
    heads = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)
