"""Refuse the config of a model that cannot be right, in a moment and before memory is allocated.

A config that others made may ask for a billion layers. Three checks find that out:

1. Sizes and counts lie in generous bounds (`check_sizes`).
2. The model can be built on the meta device, which takes no memory (`build_on_meta`).
3. It has not many more parameters than the file of weights has bytes (`check_memory`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Words at the end of the names of sizes. A size is at least 1.
_SIZES = {
    *("size", "sizes", "dim", "dims", "channels", "filters", "clusters", "conditions", "buckets", "bands", "rate"),
    *("ratios", "factors", "factor", "stride", "strides", "kernel", "dilation", "dilations", "mults", "groups"),
    *("heads", "head", "embd", "positions", "embeddings", "length", "fft", "window", "hidden", "width", "distance"),
    *("layers", "layer", "depths", "codebooks", "quantizers", "levels", "level", "units", "features", "r"),
}
# Sizes for which 0 or a negative number has a meaning somewhere.
_FREE = (
    *("ngram", "expert", "shared", "min_", "mask_", "lookahead", "focal_level", "sliding", "lstm", "token", "chunk"),
    *("only", "no_", "moe", "nextn", "feature_layer"),
)
# Words in the names of counts by which the constructor of a model repeats something.
_REPEATED = {"layers", "layer", "depths", "codebooks", "quantizers", "levels", "level", "q"}
_MAX_REPEATED = 256  # about twice as many as the deepest models have
_MAX_SIZE = 1 << 24
_MAX_RATE_HZ = 10**6
_MAX_FREE_BUFFER = 10**8  # elements that a model may compute instead of reading them, such as causal masks
# Free parameters, for weights that this package adds, and parameters per byte of a file whose weights have 4 bits.
_MAX_FREE_PARAMETERS = 10**6
_PARAMETERS_PER_BYTE = 4


def check_sizes(config: Mapping[str, Any], source: str | Path) -> None:
    """Check the integers of a config whose names say that they are sizes or counts.

    Args:
        config: content of a config.json, or a part of it.
        source: what error messages call it.

    Raises:
        ValueError: A size is below 1 or absurdly large, or a list of sizes is absurdly long.
    """
    pending: list[tuple[str, str, Any]] = [("", "", config)]
    while pending:
        path, name, value = pending.pop()
        words = name.lower().removesuffix("_ids").split("_")
        if isinstance(value, Mapping):
            for key, child in value.items():
                pending.append((f"{path}.{key}" if path else str(key), str(key), child))
        elif isinstance(value, list | tuple) and words[-1] in _SIZES:
            if len(value) > _MAX_REPEATED:
                raise ValueError(f"{source}: {path} has {len(value)} entries, more than {_MAX_REPEATED}")
            for index, child in enumerate(value):
                pending.append((f"{path}[{index}]", name, child))
        elif isinstance(value, int) and not isinstance(value, bool):
            fault = _fault_of_size(name.lower(), words, value)
            if fault:
                raise ValueError(f"{source}: {path} must be {fault}, found {value}: the file is damaged")


def _fault_of_size(name: str, words: list[str], value: int) -> str | None:
    """Describe what a value should be, or return None if it can be right."""
    is_count = words[0] in ("num", "n", "max")
    if not is_count and words[-1] not in _SIZES:
        return None
    is_free = any(part in name for part in _FREE)
    lowest = 1 if words[-1] in _SIZES and not is_free else 0
    # A few counts use a negative number for all or none.
    if value < lowest and not (is_free or words[0] == "max"):
        return f"at least {lowest}"
    highest = _MAX_REPEATED if set(words) & _REPEATED else _MAX_SIZE
    highest = _MAX_RATE_HZ if words[-1] == "rate" else highest
    return f"at most {highest}" if value > highest else None


@contextmanager
def config_errors(config: Mapping[str, Any], source: str | Path) -> Iterator[None]:
    """Turn every error of the statements that read a config into a ValueError that names the config and the field.

    Args:
        config: content of a config.json.
        source: what error messages call it.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # Some libraries list everything that they know.
        text = " ".join(str(error).split())[:500]
        if str(source) in text:
            raise ValueError(text) from None
        if isinstance(error, KeyError):
            # A table has no entry for a value of the config, such as the name of an activation.
            field = _field_with(config, error.args[0])
            text = f"{field} is {text}, which is unknown" if field else f"{text} is missing"
        elif not isinstance(error, ValueError):
            text = f"{type(error).__name__}, {text}"
        raise ValueError(f"{source} does not describe a model: {text}") from None


def _field_with(config: Any, value: Any, path: str = "") -> str | None:
    """Return the name of the first field of a config that has a value."""
    if not isinstance(config, Mapping):
        return path if path and type(config) is type(value) and config == value else None
    for key, child in config.items():
        found = _field_with(child, value, f"{path}.{key}" if path else str(key))
        if found:
            return found
    return None


def build_on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a model without allocating memory."""
    with torch.device("meta"):
        return make()


def check_memory(model: nn.Module, num_bytes: int, config: Mapping[str, Any], source: str | Path) -> None:
    """Check that a model does not need much more memory than the files of its weights.

    Args:
        model: on the meta device.
        num_bytes: of the files of weights.
        config: of the model, for the error message.
        source: what error messages call the config.

    Raises:
        ValueError: The model is much larger than its weights.
    """
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_computed = sum(buffer.numel() for buffer in model.buffers())
    limit = _PARAMETERS_PER_BYTE * num_bytes
    if num_parameters > limit + _MAX_FREE_PARAMETERS or num_computed > limit + _MAX_FREE_BUFFER:
        raise ValueError(
            f"{source} asks for a model of {num_parameters + num_computed:.3g} numbers, but its weights have only "
            f"{num_bytes} bytes. Its largest fields are {_largest_fields(config)}: the files belong to different "
            "models, or one was changed; fetch both again"
        )


def _largest_fields(config: Mapping[str, Any]) -> str:
    fields: list[tuple[int, str]] = []
    pending: list[tuple[str, Any]] = [("", config)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, Mapping):
            for key, child in value.items():
                pending.append((f"{path}.{key}" if path else str(key), child))
        elif isinstance(value, list | tuple):
            for index, child in enumerate(value):
                pending.append((f"{path}[{index}]", child))
        elif isinstance(value, int) and not isinstance(value, bool):
            fields.append((value, path))
    return ", ".join(f"{path} ({value})" for value, path in sorted(fields, reverse=True)[:3])
