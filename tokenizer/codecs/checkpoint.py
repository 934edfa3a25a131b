"""Load the weights of native codecs, in our layout or in that of their authors.

Loading is strict, and pickled files are never loaded.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.checkpoint import conversion_advice, load_strictly
from ..hub import find_file

# Suffixes of the two tensors of a weight-normalized layer, magnitude and direction, in older and newer PyTorch.
_WEIGHT_NORM = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def find_weights(source: str | Path, kwargs: dict[str, Any]) -> Path:
    """Return the path of model.safetensors in a folder or hub id.

    Raises:
        OSError: There is no such file; the message tells how to convert pickled weights.
    """
    path = find_file(source, "model.safetensors", kwargs)
    if path is None:
        raise OSError(f"{source} holds no model.safetensors. {conversion_advice(source, kwargs)}")
    return path


def load_native(
    model_class: "type[PreTrainedModel]",
    source: str | Path,
    official: "tuple[PreTrainedConfig, dict[str, Tensor]] | None",
    kwargs: dict[str, Any],
) -> Any:
    """Load a native model; in float32 unless `dtype` is given.

    Args:
        model_class: class of the model.
        source: folder or hub id.
        official: a config and tensors that were converted from the layout of the authors. None if `source` is in our
            layout.
        kwargs: options of `from_pretrained`.

    Raises:
        OSError: There is no such folder or hub id.
        ValueError: Damaged weights, or a key that is missing, left over or of another shape.
    """
    options = {"dtype": torch.float32, **kwargs}
    config_class: Any = model_class.config_class

    def build(config: Any) -> "PreTrainedModel":
        return model_class(config if isinstance(config, config_class) else config_class.from_dict(config))

    return load_strictly(model_class.from_pretrained, source, (), options, official, build)


def fold_weight_norm(tensors: dict[str, Tensor], axis: int = 0) -> dict[str, Tensor]:
    """Replace the two tensors of each weight-normalized layer by its weight.

    The weight is g v / |v| (Salimans and Kingma, 2016, arXiv 1602.07868).

    Args:
        tensors: of a checkpoint. Other tensors are passed on.
        axis: the norm is taken over all other axes.

    Raises:
        ValueError: One of the two tensors is missing, or their shapes do not fit.
    """
    folded = dict(tensors)
    for magnitude_suffix, direction_suffix in _WEIGHT_NORM:
        names = set()
        for key in tensors:
            if key.endswith((magnitude_suffix, direction_suffix)):
                names.add(key.removesuffix(magnitude_suffix).removesuffix(direction_suffix))
        for name in sorted(names):
            for key in (name + magnitude_suffix, name + direction_suffix):
                if key not in tensors:
                    raise ValueError(f"the weights lack {key}, half of a layer: fetch the file again")
            magnitude = folded.pop(name + magnitude_suffix)
            direction = folded.pop(name + direction_suffix)
            expected = [1] * direction.ndim
            expected[axis] = direction.shape[axis]
            if list(magnitude.shape) != expected:
                raise ValueError(
                    f"{name}{magnitude_suffix} has the shape {tuple(magnitude.shape)} instead of {tuple(expected)}: "
                    "fetch the file again"
                )
            norm = direction.movedim(axis, 0).flatten(1).norm(dim=1).view(expected)
            folded[f"{name}.weight"] = magnitude * direction / norm
    return folded
