"""Copy the code of a model into its folder, so that transformers opens the folder where this package is not installed.

The `auto_map` of a config tells transformers which class of which module to use. With `trust_remote_code=True` it
imports that module, and what this one imports from the same folder. Here the modules lie in several packages, so each
one is copied under a flat name, `tokenizer/focalcodec/layers.py` as `tokenizer_focalcodec_layers.py`, and its relative
imports are rewritten to such names. Where this package is imported, transformers uses its classes and not the copies.
"""

import ast
import inspect
import json
import re
from pathlib import Path

from .files import write_whole

_PATH = Path(__file__)
# This module is copied, too. Then the copies of all others lie beside it.
_IS_COPY = _PATH.stem != "remote_code"
_ROOT = _PATH.parent if _IS_COPY else _PATH.parent.parent
_HEADER = "# A copy of {path} of focallm (Apache-2.0). Its relative imports name the other copies in this folder.\n"


def write_remote_code(folder: Path, config_name: str, model_class: type, classes: dict[str, str]) -> None:
    """Copy the module of a model and the modules that it needs into a folder, and write the `auto_map` of a config.

    All classes are named in one module, because transformers may import each module of an `auto_map` with copies of its
    own of the modules that it needs.

    Args:
        folder: of the model.
        config_name: name of the JSON file that gets the `auto_map`.
        model_class: the class of the model.
        classes: names that the module of `model_class` defines or imports, by the Auto classes that open them, such as
            `{"AutoModel": "FocalCodecModel"}`.
    """
    module = Path(inspect.getfile(model_class))
    waiting = [module]
    copied: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in copied:
            continue
        source, needed = flatten(path)
        write_whole(folder / f"{flat_name(path)}.py", source.encode())
        copied.add(path)
        waiting += needed
    config = json.loads((folder / config_name).read_text(encoding="utf-8"))
    config["auto_map"] = {auto_class: f"{flat_name(module)}.{name}" for auto_class, name in classes.items()}
    write_whole(folder / config_name, (json.dumps(config, indent=2) + "\n").encode())


def flat_name(path: Path) -> str:
    """Return the name of the copy of a module, without suffix."""
    return "_".join(path.relative_to(_ROOT).with_suffix("").parts)


def flatten(path: Path) -> tuple[str, list[Path]]:
    """Rewrite the relative imports of a module.

    Args:
        path: of a module of this package.

    Returns:
        Its source with `from .flat_name import ...`, and the paths of the modules that it imports.
    """
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    needed = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        package = path.parents[node.level - 1]
        target = package.joinpath(*(node.module or "").split(".")).with_suffix(".py")
        # `from . import module` would import a module by a name that the copy does not have.
        assert target.is_file(), f"{path}, line {node.lineno}: import names from a module, not modules from a package"
        needed.append(target)
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = re.sub(r"from\s+\.[\w.]*", f"from .{flat_name(target)}", line, count=1)
    header = "" if _IS_COPY else _HEADER.format(path=path.relative_to(_ROOT).as_posix())
    return header + "".join(lines), needed
