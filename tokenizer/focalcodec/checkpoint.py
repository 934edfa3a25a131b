"""Where weights come from: folders and hub ids, official or ours; strict, and never unpickled."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from .configuration import PARTS, FocalCodecConfig
from .conversion import convert_config, convert_state_dict, is_official

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PICKLES = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.pkl")


def find_official(source: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Path] | None:
    """-> (config, weights path) if `source` holds an official checkpoint, None if it is in our layout.

    Raises:
        OSError: nothing there, no config.json, or only pickled weights.
        ValueError: a config.json that is not JSON, or not a FocalCodec's.
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
    if is_official(config):
        return config, weights or _fetch(folder, weights_name, hub)
    absent = [part for part in PARTS if part not in config]
    if absent:
        raise ValueError(
            f"{config_path} does not describe a FocalCodec: it lacks {absent}, and its model_type is "
            f"{config.get('model_type')!r}"
        )
    if source.endswith(".json"):
        raise ValueError(f"{source} is in the layout of save_pretrained: name its folder, {folder}")
    return None


def load_strictly(
    load: Callable[..., Any],
    source: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    official: tuple[dict[str, Any], Path] | None,
) -> Any:
    """Call transformers' own `from_pretrained` (`load`) and turn everything it would only warn about into an error.

    Of an official checkpoint it gets the converted config and tensors instead of the source.
    """
    wants_info = kwargs.pop("output_loading_info", False)
    kwargs = kwargs | {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    if official is not None:
        config, weights = official
        kwargs = {key: value for key, value in kwargs.items() if key not in _HUB_ARGUMENTS}
        kwargs["config"] = FocalCodecConfig(**convert_config(config))
        kwargs["state_dict"] = convert_state_dict(read_safetensors(weights))
    try:
        with _no_report():
            model, info = load(source if official is None else None, *args, **kwargs)
    except SafetensorError as error:
        raise _not_safetensors(source, error) from None
    problems = {
        "missing": sorted(info["missing_keys"]),
        "left over": sorted(info["unexpected_keys"]),
        "of another shape": [f"{key} {tuple(a)} instead of {tuple(b)}" for key, a, b in info["mismatched_keys"]],
    }
    _raise_on(problems, source)
    model.name_or_path = model.config.name_or_path = str(source)
    return (model, info) if wants_info else model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; a ValueError if it is not one of safetensors."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _not_safetensors(path, error) from None


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a file; a ValueError if there is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch the checkpoint again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(found).__name__}: fetch the checkpoint again")
    return found


@contextlib.contextmanager
def _no_report() -> Iterator[None]:
    """Keep transformers from logging a table of all keys that do not fit: `_raise_on` says it in a line."""
    logger = logging.getLogger("transformers.modeling_utils")

    def wanted(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _fetch(repo: str, name: str, hub: dict[str, Any]) -> Path:
    found = cached_file(repo, name, **hub)
    assert found is not None
    return Path(found)


def _not_safetensors(path: Any, error: Exception) -> ValueError:
    return ValueError(
        f"{path} holds a .safetensors file that cannot be read as one ({error}): it is damaged, or a renamed pickle, "
        "which is never loaded; fetch it again or convert it with safetensors.torch.save_file"
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
