"""Weights of native codecs: our layout and the official ones; strict, and never unpickled."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.utils import cached_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.checkpoint import HUB_ARGUMENTS, load_strictly, read_json

# The two tensors of a weight-normalised layer, magnitude and direction, as older and newer PyTorch spell them.
_WEIGHT_NORM = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def find_file(source: str | Path, name: str, kwargs: dict[str, Any]) -> Path | None:
    """Where a file of a folder or hub id lies; None if it has none of that name."""
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
    found = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **hub)
    return None if found is None else Path(found)


def read_config(source: str | Path, kwargs: dict[str, Any], name: str = "config.json") -> dict[str, Any]:
    """The config of that name of a folder or hub id, empty where there is none.

    Raises:
        OSError: no such folder or hub id.
        ValueError: not JSON.
    """
    path = find_file(source, name, kwargs)
    return {} if path is None else read_json(path)


def find_weights(source: str | Path, kwargs: dict[str, Any]) -> Path:
    """Where model.safetensors of a folder or hub id lies.

    Raises:
        OSError: no such file; the message tells how to convert pickled weights.
    """
    path = find_file(source, "model.safetensors", kwargs)
    if path is None:
        raise OSError(f"{source} holds no model.safetensors. {conversion_advice(source, kwargs)}")
    return path


def conversion_advice(source: str | Path, kwargs: dict[str, Any]) -> str:
    """What to do where a folder or hub id has only pickled weights, in a line."""
    folder = Path(source, kwargs.get("subfolder", ""))
    pickles = sorted(path for kind in ("*.ckpt", "*.pt", "*.pth", "*.bin") for path in folder.glob(kind))
    path = pickles[0] if pickles else folder / "checkpoint.pt"
    return (
        "Pickled weights are never loaded; convert them once: import torch, safetensors.torch; "
        f"state = torch.load({str(path)!r}, map_location='cpu', weights_only=True); "
        "safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.get('state_dict', state).items()}, "
        f"{str(path.with_name('model.safetensors'))!r})"
    )


def load_native(
    model_class: "type[PreTrainedModel]",
    source: str | Path,
    official: "tuple[PreTrainedConfig, dict[str, Tensor]] | None",
    kwargs: dict[str, Any],
) -> Any:
    """The model in `source` (our layout), or of an official config and tensors in our spelling; float32 by default.

    Raises:
        OSError: nothing there.
        ValueError: damaged weights, or a key that is missing, left over or of another shape.
    """
    options = {"dtype": torch.float32, **kwargs}
    return load_strictly(model_class.from_pretrained, source, (), options, official)


def fold_weight_norm(tensors: dict[str, Tensor], axis: int = 0) -> dict[str, Tensor]:
    """Each weight-normalised layer's weight, g v / |v| (Salimans and Kingma, 2016), instead of its two tensors.

    The norm goes over all axes but `axis`.

    Raises:
        ValueError: one of the two without the other, or a magnitude whose shape does not belong to its direction.
    """
    folded = dict(tensors)
    for magnitude, direction in _WEIGHT_NORM:
        names = {key.removesuffix(end) for end in (magnitude, direction) for key in tensors if key.endswith(end)}
        for name in sorted(names):
            key = name + magnitude
            absent = [part for part in (key, name + direction) if part not in tensors]
            if absent:
                raise ValueError(f"the weights lack {absent[0]}, half of a layer: fetch the file again")
            g, v = folded.pop(key), folded.pop(name + direction)
            expected = tuple(size if i == axis else 1 for i, size in enumerate(v.shape))
            if g.shape != expected:
                raise ValueError(f"{key} has the shape {tuple(g.shape)} instead of {expected}: fetch the file again")
            folded[name + ".weight"] = g * v / v.movedim(axis, 0).flatten(1).norm(dim=1).view(expected)
    return folded
