"""Load FocalCodec checkpoints: folders and hub ids, in our layout or the official one.

Loading is strict: a checkpoint must have exactly the keys of the model. Pickled weights are never loaded.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..config_checks import build_on_meta, check_memory, check_sizes, config_errors
from ..configs import read_json
from ..files import first_not_finite
from ..hub import HUB_ARGUMENTS, find_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PICKLES = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.pkl")

# The names of parts in official configs, and the type in our config, which is None for the default.
_OFFICIAL_PARTS: dict[str, dict[str, str | None]] = {
    "encoder": {"WavLM": "wavlm"},
    "compressor": {"FocalEncoder": None},
    "quantizer": {"BinarySphericalQuantizer": None},
    "decompressor": {"FocalDecoder": None},
    "decoder": {"Vocos": "vocos", "WaveNeXt": "wavenext"},
}
# Fields of official configs that affect neither weights nor results.
_IGNORED_FIELDS: dict[str, set[str]] = {
    "encoder": {"dropout", "max_cached_steps", "use_flex_attention"},
    "compressor": {"dropout"},
    "quantizer": set(),
    "decompressor": {"dropout"},
    "decoder": {"padding"},
}
_RENAMED_FIELDS = {"input_channels": "input_dim", "downscale_factors": "factors", "upscale_factors": "factors"}


def find_official(source: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Path] | None:
    """Look for an official checkpoint.

    Args:
        source: folder, hub id, or a config `.json` with its `.safetensors` beside it.
        kwargs: options of `from_pretrained`. Only those in `HUB_ARGUMENTS` are used.

    Returns:
        The config and the path of the weights, or None if the checkpoint is in our layout.

    Raises:
        OSError: The source does not exist, has no config.json, or has only pickled weights.
        ValueError: The config.json is not JSON, or does not describe a FocalCodec.
    """
    source = str(source)
    folder = source
    config_name = "config.json"
    weights_name = "model.safetensors"
    if source.endswith(".json"):
        folder, _, config_name = source.rpartition("/")
        folder = folder or "."
        if config_name != "config.json":
            weights_name = config_name.removesuffix(".json") + ".safetensors"

    # Folders take precedence: a relative path such as runs/codec could also be a hub id.
    weights = None
    if Path(folder).is_dir():
        root = Path(folder) / kwargs.get("subfolder", "")
        config_path, weights = _find_in_folder(root, config_name, weights_name)
    elif Path(folder).exists() or folder.startswith((".", "/", "~")) or folder.count("/") > 1:
        raise OSError(f"{source} is not a folder with a checkpoint, and cannot be a hub id (owner/name): check it")
    else:
        config_path = _fetch(folder, config_name, kwargs)

    config = read_json(config_path)
    check_sizes(config, config_path)
    if is_official(config):
        return config, weights or _fetch(folder, weights_name, kwargs)
    absent = [part for part in _OFFICIAL_PARTS if part not in config]
    if absent:
        raise ValueError(
            f"{config_path} does not describe a FocalCodec: it lacks {absent}, and its model_type is "
            f"{config.get('model_type')!r}"
        )
    if source.endswith(".json"):
        raise ValueError(f"{source} is in the layout of save_pretrained: name its folder, {folder}")
    return None


def _find_in_folder(root: Path, config_name: str, weights_name: str) -> tuple[Path, Path]:
    config_path = root / config_name
    weights = root / weights_name
    if not config_path.is_file():
        present = sorted(path.name for path in root.iterdir())[:10] if root.is_dir() else []
        raise OSError(
            f"{root} has no {config_name}; it holds {present}. Name a folder made by save_pretrained or a hub id"
        )
    if weights.is_file() or (root / f"{weights_name}.index.json").is_file():
        return config_path, weights
    pickles: list[str] = []
    for pattern in _PICKLES:
        pickles.extend(path.name for path in root.glob(pattern))
    found = "no weights: "
    if pickles:
        found = f"only pickled weights ({min(pickles)}), which are never loaded: "
    raise OSError(f"{root} holds {found}{weights_name} is needed; convert with safetensors.torch.save_file")


def _fetch(repo: str, name: str, kwargs: dict[str, Any]) -> Path:
    path = find_file(repo, name, kwargs)
    if path is None:
        raise OSError(f"{repo} has no {name}: name a repository with a FocalCodec")
    return path


def read_config(source: str | Path, kwargs: dict[str, Any], name: str = "config.json") -> dict[str, Any]:
    """Read a config file of a folder or hub id. Without such a file the config is empty.

    Raises:
        OSError: There is no such folder or hub id.
        ValueError: The file is not JSON, or a size in it is absurd.
    """
    path = find_file(source, name, kwargs)
    if path is None:
        return {}
    config = read_json(path)
    check_sizes(config, path)
    return config


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


def load_strictly(
    load: Callable[..., Any],
    source: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    official: "tuple[PreTrainedConfig, dict[str, Tensor]] | None",
    build: Callable[[Any], Any],
) -> Any:
    """Load a model with transformers, and raise an error where transformers only warns.

    Args:
        load: `from_pretrained` of transformers.
        source: folder or hub id.
        args: more positional arguments of `load`.
        kwargs: options of `load`.
        official: config and tensors of an official checkpoint, converted to our layout. They are passed to `load`
            instead of the source.
        build: makes a model, without its weights, from the config of an official checkpoint or the content of
            config.json.

    Returns:
        The model; with `output_loading_info=True` also the report of transformers.

    Raises:
        ValueError: The config asks for absurd sizes. Weights are damaged or not finite, or a key is missing, left over
            or of another shape.
    """
    if official is None:
        check_before_loading(source, kwargs, build)
    else:
        num_bytes = sum(tensor.nbytes for tensor in official[1].values())
        _check_build(lambda: build(official[0]), official[0].to_dict(), source, num_bytes)
    wants_info = kwargs.pop("output_loading_info", False)
    # Without `ignore_mismatched_sizes` transformers stops at the first key of another shape.
    kwargs = kwargs | {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    if official is not None:
        kwargs = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        kwargs["config"], kwargs["state_dict"] = official
    try:
        with _no_load_report():
            model, info = load(source if official is None else None, *args, **kwargs)
    except SafetensorError as error:
        raise _not_safetensors(source, error) from None
    mismatched = [f"{key} {tuple(found)} instead of {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]]
    check_keys(sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), mismatched, source)
    check_loaded(model.state_dict(), source)
    model.name_or_path = str(source)
    model.config.name_or_path = str(source)
    return (model, info) if wants_info else model


def check_before_loading(source: Any, kwargs: dict[str, Any], build: Callable[[dict[str, Any]], Any]) -> None:
    """Check that a config.json describes a model that can be built, and that is not much larger than its weights.

    Args:
        source: folder or hub id.
        kwargs: options of `from_pretrained`.
        build: makes a model, without its weights, from the content of config.json.

    Raises:
        OSError: There is no config.json.
        ValueError: The config is damaged, or asks for absurd sizes. The message names the field.
    """
    path = find_file(source, "config.json", kwargs)
    if path is None:
        raise OSError(f"{source} has no config.json: name a folder made by save_pretrained or a hub id")
    fields = read_json(path)
    check_sizes(fields, path)
    num_bytes = 0
    index = find_file(source, "model.safetensors.index.json", kwargs)
    names = {"model.safetensors"}
    if index is not None and isinstance(parts := read_json(index).get("weight_map"), dict):
        names = set(map(str, parts.values()))
    for name in names:
        weights = find_file(source, name, kwargs)
        num_bytes += weights.stat().st_size if weights else 0
    _check_build(lambda: build(fields), fields, path, num_bytes)


def _check_build(make: Callable[[], Any], fields: dict[str, Any], source: Any, num_bytes: int) -> None:
    with config_errors(fields, source):
        model = build_on_meta(make)
    # Without weights the loader has the better error.
    if num_bytes:
        check_memory(model, num_bytes, fields, source)


def check_loaded(tensors: dict[str, Tensor], source: Any) -> None:
    """Raise a ValueError that names the first weight of a checkpoint that holds NaN or infinity."""
    name = first_not_finite(tensors)
    if name is not None:
        raise ValueError(
            f"{source}: the weight {name} holds NaN or infinity: the file is damaged, its training diverged, or its "
            "numbers are too large for the dtype; fetch it again"
        )


def check_keys(missing: list[str], left_over: list[str], mismatched: list[str], source: Any) -> None:
    """Raise a ValueError that names the keys of a checkpoint that do not fit the model."""
    problems = []
    for kind, keys in (("missing", missing), ("left over", left_over), ("of another shape", mismatched)):
        if keys:
            problems.append(f"{len(keys)} keys {kind}: {keys[:5]}")
    if problems:
        raise ValueError(
            f"{source} does not fit its config.json. {'; '.join(problems)}. The two files belong to different models, "
            "or one was changed: fetch both again"
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        ValueError: The file is damaged, or not in the format of safetensors.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _not_safetensors(path, error) from None


@contextlib.contextmanager
def _no_load_report() -> Iterator[None]:
    """Keep transformers from logging a table of all keys that do not fit; `check_keys` reports them in one line."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_wanted(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def _not_safetensors(path: Any, error: Exception) -> ValueError:
    return ValueError(
        f"{path} holds a .safetensors file that cannot be read as one ({error}): it is damaged, or a renamed pickle, "
        "which is never loaded; fetch it again or convert it with safetensors.torch.save_file"
    )


def is_official(config: dict[str, Any]) -> bool:
    """Return whether a config.json has the official schema (`encoder_name`, ...) instead of ours (`model_type`)."""
    return "encoder_name" in config


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Convert an official config to keyword arguments of `FocalCodecConfig`.

    Raises:
        ValueError: A part is unknown, or an option is set that no released model uses.
    """
    converted: dict[str, dict[str, Any]] = {}
    for part, types in _OFFICIAL_PARTS.items():
        name = config.get(f"{part}_name")
        if name not in types:
            raise ValueError(f"{part}_name must be one of {list(types)}, found {name!r}")
        fields: dict[str, Any] = config.get(f"{part}_config", {})
        if not isinstance(fields, dict):
            raise ValueError(f"{part}_config must be an object, found {fields!r}")
        if fields.get("dropout"):
            raise ValueError(
                f"{part}_config.dropout is {fields['dropout']}, but only 0 is supported, as in the released models"
            )
        converted[part] = {}
        if types[name] is not None:
            converted[part]["type"] = types[name]
        for field, value in fields.items():
            if field not in _IGNORED_FIELDS[part]:
                converted[part][_RENAMED_FIELDS.get(field, field)] = value
    return converted


def convert_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the keys of official weights to ours.

    The legacy layout (reference 0.0.1, the released non-causal files) is converted to the current one, which is ours.
    Weights in the current layout are returned unchanged.

    Raises:
        ValueError: A query projection has no key or value projection.
    """
    # Only the legacy layout has separate projections of queries, keys and values.
    if not any(".attention.q_proj." in key for key in tensors):
        return dict(tensors)
    converted = {}
    for key, tensor in tensors.items():
        if key.startswith("encoder.encoder.norm.") or key == "quantizer.mask":
            continue  # the reference does not use them
        if ".attention.k_proj." in key or ".attention.v_proj." in key:
            continue  # joined with the projection of the queries below
        if ".attention.q_proj." in key:
            projections = [key.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
            absent = [name for name in projections if name not in tensors]
            if absent:
                raise ValueError(f"the checkpoint has {key} but not {absent}: the file is incomplete, fetch it again")
            joined = torch.cat([tensors[name] for name in projections])
            converted[key.replace(".q_proj.", ".qkv_proj.")] = joined
            continue
        converted[_rename_stack_key(key)] = tensor
    return converted


def _rename_stack_key(key: str) -> str:
    """Name the two modules of a layer in a stack, which the legacy layout numbers 0 and 1."""
    part, *rest = key.split(".")
    if part == "compressor" and rest[0] == "layers":
        rest[2] = ("downscale", "focal_block")[int(rest[2])]
    elif part == "decompressor" and rest[0] == "layers":
        rest[2] = ("focal_block", "upscale")[int(rest[2])]
    return ".".join([part, *rest])
