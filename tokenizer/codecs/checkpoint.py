"""Load the weights of native codecs, in our layout or in that of their authors.

Loading is strict, and pickled files are never loaded.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.utils import cached_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.checkpoint import HUB_ARGUMENTS, load_strictly, read_json

_PICKLES = ("*.ckpt", "*.pt", "*.pth", "*.bin")
# Suffixes of the two tensors of a weight-normalized layer, magnitude and direction, in older and newer PyTorch.
_WEIGHT_NORM = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def find_file(source: str | Path, name: str, kwargs: dict[str, Any]) -> Path | None:
    """Return the path of a file in a folder or hub id, or None if there is no file of that name."""
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
    path = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **hub)
    return None if path is None else Path(path)


def read_config(source: str | Path, kwargs: dict[str, Any], name: str = "config.json") -> dict[str, Any]:
    """Read a config file of a folder or hub id. Without such a file the config is empty.

    Raises:
        OSError: There is no such folder or hub id.
        ValueError: The file is not JSON.
    """
    path = find_file(source, name, kwargs)
    return {} if path is None else read_json(path)


def find_weights(source: str | Path, kwargs: dict[str, Any]) -> Path:
    """Return the path of model.safetensors in a folder or hub id.

    Raises:
        OSError: There is no such file; the message tells how to convert pickled weights.
    """
    path = find_file(source, "model.safetensors", kwargs)
    if path is None:
        raise OSError(f"{source} holds no model.safetensors. {conversion_advice(source, kwargs)}")
    return path


def conversion_advice(source: str | Path, kwargs: dict[str, Any]) -> str:
    """Write one line of Python that converts the pickled weights of a folder or hub id."""
    folder = Path(source, kwargs.get("subfolder", ""))
    pickles: list[Path] = []
    for pattern in _PICKLES:
        pickles.extend(folder.glob(pattern))
    path = min(pickles, default=folder / "checkpoint.pt")
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
    return load_strictly(model_class.from_pretrained, source, (), options, official)


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
