#!/usr/bin/env python3
"""Measure the density of the code and how the modules import each other.

    python scripts/measure_code.py

Prints, for each folder and for the whole package, per 1,000 lines of code: comprehensions, nested comprehensions, tuple
assignments (`a, b = x, y`) and own-line comments; then the longest chain of imports. Fails if imports form a circle.
Imports inside functions count, imports under `if TYPE_CHECKING` do not.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("focallm", "tokenizer", "data", "lm", "tasks")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def main() -> None:
    """Print the figures."""
    total = Density()
    for folder in FOLDERS:
        density = Density()
        for path in source_files(folder):
            density.add(path.read_text(encoding="utf-8"))
        total.update(density)
        print(f"{folder:10} {density}")
    print(f"{'all':10} {total}")

    graph = import_graph()
    circles = find_circles(graph)
    for circle in circles:
        print("circle:", " -> ".join(circle))
    if circles:
        sys.exit(1)
    chain = longest_chain(graph)
    print(f"longest import chain: {len(chain)} modules: {' -> '.join(chain)}")


class Density:
    """Counts over source files."""

    def __init__(self) -> None:
        self.lines = 0
        self.comments = 0
        self.comprehensions = 0
        self.nested = 0
        self.tuple_assignments = 0

    def add(self, source: str) -> None:
        """Count one file."""
        for line in source.splitlines():
            stripped = line.strip()
            if stripped.startswith("#"):
                self.comments += 1
            elif stripped:
                self.lines += 1
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, COMPREHENSIONS):
                self.comprehensions += 1
                self.nested += is_nested(node)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                self.tuple_assignments += isinstance(node.value, ast.Tuple)

    def update(self, other: "Density") -> None:
        """Add the counts of another folder."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def __str__(self) -> str:
        scale = 1000 / max(self.lines, 1)
        return (
            f"{self.lines:6} lines; per 1,000: comprehensions {self.comprehensions * scale:5.1f}, "
            f"nested {self.nested * scale:4.1f}, tuple assignments {self.tuple_assignments * scale:4.1f}, "
            f"own-line comments {self.comments * scale:5.1f}"
        )


def is_nested(node: ast.AST) -> bool:
    """Return whether a comprehension has two loops or contains another comprehension."""
    if len(getattr(node, "generators", [])) > 1:
        return True
    return any(isinstance(child, COMPREHENSIONS) for child in ast.walk(node) if child is not node)


def source_files(folder: str) -> list[Path]:
    """Return the modules of a folder, without the copies beside the weights."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "weights" not in path.parts)


def import_graph() -> dict[str, set[str]]:
    """Map each module to the modules of the package that it imports, by dotted names below `focallm`."""
    paths = {}
    for folder in FOLDERS:
        for path in source_files(folder):
            paths[module_name(path)] = path
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        graph[module] = set()
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8")), package):
            # `from .a import b` imports the module a.b if there is one, otherwise the name b from the module a.
            target = name if name in paths else name.rpartition(".")[0]
            if target in paths and target != module:
                graph[module].add(target)
    return graph


def module_name(path: Path) -> str:
    """Convert a path to a dotted name: lm/model.py to lm.model, focallm/__init__.py to focallm."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names that a module imports with relative imports."""
    for node in without_type_checking(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = [] if package == "focallm" else package.split(".")
        if node.level > 1:
            base = base[: 1 - node.level]
        if node.module:
            base = [*base, *node.module.split(".")]
        for alias in node.names:
            yield ".".join([*base, alias.name])


def without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from without_type_checking(node)


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Find import circles, one for each back edge of a depth-first search."""
    circles = []
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        for target in sorted(graph[module]):
            if target in path:
                circles.append([*path[path.index(target) :], target])
            elif target not in finished:
                visit(target, [*path, target])
        finished.add(module)

    for module in sorted(graph):
        if module not in finished:
            visit(module, [module])
    return circles


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Find the longest path through a graph without circles."""
    best: dict[str, list[str]] = {}

    def chain_from(module: str) -> list[str]:
        if module not in best:
            tail: list[str] = []
            for target in sorted(graph[module]):
                candidate = chain_from(target)
                if len(candidate) > len(tail):
                    tail = candidate
            best[module] = [module, *tail]
        return best[module]

    return max((chain_from(module) for module in sorted(graph)), key=len)


if __name__ == "__main__":
    main()
