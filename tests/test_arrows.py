"""Rules that the source must follow: directions of imports, no circles, short chains, type hints and docstrings."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["tokenizer", "data", "lm", "tasks"]  # each may import from those before it
TASK_LAYERS = [  # the same inside tasks
    {"definitions"},
    {"inference"},
    {"training", "evaluation", "export", "paper", "benchmarks", "release", "demo", "page", "info", "serve"},
    {"cli"},
    {"__main__"},
]
FORBIDDEN = {"torchaudio", "torchcodec", "librosa"}
LONGEST_CHAIN = 15
# The weights hold copies of modules, for folders that open without this package.
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py") if "weights" not in path.parts)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def measure_code() -> ModuleType:
    """The functions of scripts/measure_code.py."""
    spec = importlib.util.spec_from_file_location("measure_code", ROOT / "scripts" / "measure_code.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graph(measure_code: ModuleType) -> dict[str, set[str]]:
    """Module -> the modules that it imports, also inside functions, by names such as `lm.training.trainer`."""
    return measure_code.import_graph()


def test_there_is_something_to_read(graph: dict[str, set[str]]) -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(LAYERS)
    assert len(graph) == len(FILES) + 1


def test_arrows_between_packages_point_one_way(graph: dict[str, set[str]]) -> None:
    wrong = []
    for module, target in _edges(graph):
        if LAYERS.index(module.split(".")[0]) < LAYERS.index(target.split(".")[0]):
            wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_arrows_inside_tasks_point_one_way(graph: dict[str, set[str]]) -> None:
    wrong = []
    for module, target in _edges(graph):
        inside = module.startswith("tasks.") and target.startswith("tasks.")
        if inside and _task_layer(module) < _task_layer(target):
            wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_import_circle(graph: dict[str, set[str]], measure_code: ModuleType) -> None:
    assert measure_code.find_circles(graph) == []


def test_the_longest_import_chain_is_short(graph: dict[str, set[str]], measure_code: ModuleType) -> None:
    chain = measure_code.longest_chain(graph)
    assert len(chain) < LONGEST_CHAIN, " -> ".join(chain)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_are_relative_and_light(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # mypy finds no parent package for `from ... import __version__`.
            if node.module == "focallm" and [alias.name for alias in node.names] == ["__version__"]:
                continue
            names = [node.module]
        for name in names:
            assert name.split(".")[0] not in {*FORBIDDEN, "focallm"}, f"{_name(path)}:{node.lineno} imports {name}"


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


def _edges(graph: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield all imports between modules of the four packages; `focallm` itself defines only the version."""
    for module, targets in graph.items():
        for target in targets:
            if "focallm" not in (module, target):
                yield module, target


def _task_layer(module: str) -> int:
    """Return the layer of a module of tasks, as an index into TASK_LAYERS."""
    name = module.split(".")[1]
    for i, names in enumerate(TASK_LAYERS):
        if name in names:
            return i
    raise AssertionError(f"{module}: add {name} to TASK_LAYERS, at its place")


def _public(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Yield public functions and classes of a module, and the public methods (with `__init__`) of these classes."""
    for node in body:
        if any(isinstance(item, ast.Name) and item.id == "overload" for item in getattr(node, "decorator_list", [])):
            continue  # the implementation has the docstring
        if isinstance(node, Function | ast.ClassDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{node.name}.")


def _bare(node: Function, method: bool) -> Iterator[str]:
    """Yield the arguments of a function without annotation, and "the result" if it has none."""
    static = any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in node.decorator_list)
    positional = [*node.args.posonlyargs, *node.args.args]
    rest = [*node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    for argument in positional[1 if method and not static else 0 :] + [item for item in rest if item]:
        if argument.annotation is None:
            yield argument.arg
    if node.returns is None:
        yield "the result"
