"""Where weights come from: folders and hub ids, official or ours; strict, and never unpickled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from .configuration import FocalCodecConfig
from .conversion import convert_config, convert_state_dict, is_official

if TYPE_CHECKING:
    from .modeling import FocalCodecModel

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PICKLES = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.pkl")


def find_official(source: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Path] | None:
    """-> (config, weights path) if `source` holds an official checkpoint, None if it is in our layout.

    Raises:
        OSError: nothing there, no config.json, or only pickled weights.
    """
    source = str(source)
    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
    folder, config_name = source, "config.json"
    if source.endswith(".json"):
        folder, config_name = source.rpartition("/")[0] or ".", source.rpartition("/")[2]
    weights_name = "model.safetensors" if config_name == "config.json" else config_name[:-5] + ".safetensors"
    if Path(folder).is_dir():
        root = Path(folder) / hub.get("subfolder", "")
        config_path, weights = root / config_name, root / weights_name
        if not config_path.is_file():
            present = sorted(path.name for path in root.iterdir())[:10] if root.is_dir() else []
            raise OSError(
                f"{root} has no {config_name}; it holds {present}. Name a folder made by save_pretrained or a hub id"
            )
        if not weights.is_file() and not (root / f"{weights_name}.index.json").is_file():
            pickles = sorted(path.name for pattern in _PICKLES for path in root.glob(pattern))
            found = f"only pickled weights ({pickles[0]}), which are never loaded: " if pickles else "no weights: "
            raise OSError(f"{root} holds {found}{weights_name} is needed; convert with safetensors.torch.save_file")
    elif Path(folder).exists() or folder.startswith((".", "/", "~")) or folder.count("/") > 1:
        raise OSError(f"{source} is not a folder with a checkpoint, and cannot be a hub id (owner/name)")
    else:
        config_path = _fetch(folder, config_name, hub)
        weights = None
    config = read_json(config_path)
    if not is_official(config):
        return None
    return config, weights or _fetch(folder, weights_name, hub)


def load_official(cls: type["FocalCodecModel"], found: tuple[dict[str, Any], Path], dtype: Any) -> "FocalCodecModel":
    """Build the model that an official config describes and load its weights, every key exactly once."""
    config, weights = found
    model = cls(FocalCodecConfig(**convert_config(config)))
    tensors = convert_state_dict(read_safetensors(weights))
    expected = model.state_dict()
    problems = {
        "missing": sorted(set(expected) - set(tensors)),
        "left over": sorted(set(tensors) - set(expected)),
        "of another shape": [
            f"{key} {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in tensors and tensors[key].shape != expected[key].shape
        ],
    }
    _raise_on(problems, weights)
    model.load_state_dict(tensors)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    return model.eval() if dtype in (None, "auto") else model.to(dtype).eval()


def load_strictly(load: Callable[..., Any], source: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call transformers' own `from_pretrained` and turn everything it would only warn about into an error."""
    wants_info = kwargs.pop("output_loading_info", False)
    kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
    try:
        model, info = load(source, *args, output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise _not_safetensors(source, error) from None
    problems = {
        "missing": sorted(info["missing_keys"]),
        "left over": sorted(info["unexpected_keys"]),
        "of another shape": [f"{key} {tuple(a)} instead of {tuple(b)}" for key, a, b in info["mismatched_keys"]],
    }
    _raise_on(problems, source)
    return (model, info) if wants_info else model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _not_safetensors(path, error) from None


def read_json(path: Path | str) -> dict[str, Any]:
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch the checkpoint again") from None


def _fetch(repo: str, name: str, hub: dict[str, Any]) -> Path:
    found = cached_file(repo, name, **hub)
    assert found is not None
    return Path(found)


def _not_safetensors(path: Any, error: Exception) -> ValueError:
    return ValueError(
        f"{path} holds a .safetensors file that cannot be read as one ({error}): it is damaged, or a renamed pickle, which "
        "is never loaded; fetch it again or convert it with safetensors.torch.save_file"
    )


def _raise_on(problems: dict[str, list[str]], source: Any) -> None:
    found = [f"{len(keys)} keys {kind}: {keys[:5]}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(
            f"{source} does not fit its config.json. "
            + "; ".join(found)
            + ". The two files belong to different models, "
            "or one was changed: fetch both again"
        )
