"""Weights of native codecs: our layout and the official ones; strict, and never unpickled."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ..focalcodec.loading import _HUB_ARGUMENTS, load_strictly, read_json


def find_config(source: str | Path, name: str, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON file of that name in a folder or on the hub; None if the source, a file perhaps, has none.

    Raises:
        OSError: a hub id that does not exist or is not open to the caller.
        ValueError: not JSON.
    """
    if Path(source).is_file():
        return None
    file = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **_hub(kwargs))
    return None if file is None else read_json(file)


def find_weights(source: str | Path, name: str, kwargs: dict[str, Any]) -> Path:
    """The safetensors file of that name in a folder or on the hub.

    Raises:
        OSError: it is not there.
    """
    try:
        file = cached_file(str(source), name, **_hub(kwargs))
    except OSError as error:
        raise OSError(f"{source} holds no {name}. {conversion_advice('model.ckpt')}") from error
    assert file is not None
    return Path(file)


def _hub(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}


def conversion_advice(name: str) -> str:
    """What to do with pickled weights of that file name, in a line."""
    return (
        f"Pickled weights are never loaded; convert them with: safetensors.torch.save_file(torch.load({name!r}, "
        "weights_only=True)['state_dict'], 'model.safetensors')"
    )


def load_native(
    model_class: type[PreTrainedModel],
    source: str | Path,
    official: tuple[PreTrainedConfig, dict[str, Tensor]] | None,
    kwargs: dict[str, Any],
) -> Any:
    """The model in `source` (our layout), or of an official config and tensors in our spelling; float32 by default.

    Raises:
        OSError: nothing there.
        ValueError: damaged weights, or a key that is missing, left over or of another shape.
    """
    options = {"dtype": torch.float32, **kwargs}
    if official is None:
        return load_strictly(model_class.from_pretrained, source, (), options, None)
    config, tensors = official
    options = {key: value for key, value in options.items() if key not in _HUB_ARGUMENTS}
    options |= {"config": config, "state_dict": tensors}

    def load(_: Any, **more: Any) -> Any:
        return model_class.from_pretrained(None, **more)

    return load_strictly(load, source, (), options, None)


def fold_weight_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the two tensors of each weight-normalised layer by its weight, g v / |v| (Salimans and Kingma, 2016).

    Both spellings of PyTorch are known; the norm is taken per first index. A half without its other half stays.

    Raises:
        ValueError: a magnitude whose shape does not belong to its direction.
    """
    folded = dict(tensors)
    for magnitude, direction in (
        (".weight_g", ".weight_v"),
        (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    ):
        for key in [key for key in tensors if key.endswith(magnitude)]:
            name = key.removesuffix(magnitude)
            if name + direction not in tensors:
                continue
            g, v = folded.pop(key), folded.pop(name + direction)
            expected = (v.shape[0], *[1] * (v.ndim - 1))
            if tuple(g.shape) != expected:
                raise ValueError(f"{key} has the shape {tuple(g.shape)} instead of {expected}: fetch the file again")
            norm = v.flatten(1).norm(dim=1).view(expected)
            folded[name + ".weight"] = g * v / norm
    return folded
