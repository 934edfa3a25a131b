"""The house rules that can be read off the source: arrows one way, light imports, hints and docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["tokenizer", "data", "lm", "tasks"]  # each may import from those before it
FORBIDDEN = {"torchaudio", "torchcodec", "librosa"}
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_arrows_point_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    for line, module in _imports(path):
        parts = module.split(".")
        assert parts[0] not in FORBIDDEN, f"{_name(path)}:{line} imports {module}"
        assert parts[0] != "focallm" or not above & set(parts[1:2]), f"{_name(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_what_is_public_has_hints_and_a_docstring(path: Path) -> None:
    faults = []
    for owner, node in _public(ast.parse(path.read_text(encoding="utf-8")).body):
        name = f"{_name(path)}:{node.lineno} {owner}{node.name}"
        if isinstance(node, Function):
            faults += [f"{name}: no hint for {argument}" for argument in _bare(node, bool(owner))]
        # The docstring of a module's class gives the shapes of its `forward`.
        if not ast.get_docstring(node) and node.name not in ("__init__", "forward"):
            faults.append(f"{name}: no docstring")
    assert not faults, "\n".join(faults)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything imported, also inside functions; relative names are resolved."""
    package = ["focallm", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def _public(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public functions and classes of a module, and the public methods (with `__init__`) of its public classes."""
    for node in body:
        if any(isinstance(item, ast.Name) and item.id == "overload" for item in getattr(node, "decorator_list", [])):
            continue  # the one that is written has the docstring
        if isinstance(node, Function | ast.ClassDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{node.name}.")


def _bare(node: Function, method: bool) -> Iterator[str]:
    """What has no annotation among the arguments and the result of a function."""
    static = any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in node.decorator_list)
    positional = [*node.args.posonlyargs, *node.args.args]
    rest = [*node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    for argument in positional[1 if method and not static else 0 :] + [item for item in rest if item]:
        if argument.annotation is None:
            yield argument.arg
    if node.returns is None:
        yield "the result"
