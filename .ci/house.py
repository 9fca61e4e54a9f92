"""The house in figures, trees side by side.

    python .ci/house.py TREE [TREE ...]

A tree is a checkout (`git worktree add /tmp/before COMMIT`). Figures are of `compressor`, `serving`,
`artefact` and `lathe`, as far as a tree has them; nothing is imported.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("lathe", "artefact", "compressor", "serving")
REVIEWED = """
    orders damage damages reform reforms reformed judge judges judged bank slopes fastest card prepared meter
    sessions calm room walk walker course spot streams passes routes apart sketch surgery cut cutting parcel
    crew held slides ropes covers sink carry hop mail outbox deliver withdraw conclude board tally asked drive
    assignment alias
"""
"""Words that the field has others for, of the review's table; without those that also mean something else."""
WORDS = frozenset(REVIEWED.split())
FRAGMENT = re.compile(r"(Of|As|Those|That|What|Which|Who|Whether|With|From|By|For|Ours|Theirs|Its|So)\b")


class Module(NamedTuple):
    """A file, by the dotted name that it would have at the top of a tree."""

    name: str
    path: Path
    tree: ast.Module


def main(trees: list[str]) -> int:
    """Prints one column of figures a tree."""
    columns = [figures(Path(tree)) for tree in trees]
    width = max(map(len, columns[0]))
    for row in columns[0]:
        sys.stdout.write(f"{row:{width}}" + "".join(f"  {column[row]:>14}" for column in columns) + "\n")
    return 0


def figures(root: Path) -> dict[str, str]:
    """Every figure of a tree, as text."""
    modules = list(read(root))
    functions = [node for module in modules for node in ast.walk(module.tree) if isinstance(node, FUNCTIONS)]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno)
    arguments = sorted(count(node) for node in functions)
    texts = [module.path.read_text() for module in modules]
    everything = [path.read_text() for path in sorted(root.rglob("*.py")) if ours(path.relative_to(root))]
    docstrings = [text for module in modules for text in documented(module.tree)]
    edges = list(imports(modules))
    words = private_words(modules)
    return {
        "files": str(len(modules)),
        "lines": str(sum(text.count("\n") for text in texts)),
        "private words (names with them)": f"{len(words)} ({sum(words.values())})",
        "compressor -> serving": str(crossing(edges, "compressor", "serving")),
        "serving -> compressor": str(crossing(edges, "serving", "compressor")),
        "circles of folders": str(len(circles(edges))),
        "fmt: skip": str(sum(len(re.findall(r"# fmt: skip$", text, re.MULTILINE)) for text in everything)),
        "function: lines, median / p90 / max": f"{middle(lengths)} / {p90(lengths)} / {lengths[-1]}",
        "functions over 40 lines": str(sum(length > 40 for length in lengths)),
        "arguments: p90 / max": f"{p90(arguments)} / {arguments[-1]}",
        "docstrings that begin with a fragment": str(sum(bool(FRAGMENT.match(text)) for text in docstrings)),
        "README: words": str(len((root / "README.md").read_text().split())),
    }


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def ours(path: Path) -> bool:
    """Whether a path of a tree is neither hidden nor built."""
    return not any(part.startswith(".") or part in ("build", "__pycache__") for part in path.parts)


def read(root: Path) -> Iterator[Module]:
    """Yields the modules of a tree's packages; links between folders are not followed."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            within = path.relative_to(root)
            if ours(within) and not any((root / part).is_symlink() for part in within.parents):
                name = ".".join(within.with_suffix("").parts).removesuffix(".__init__")
                yield Module(name, path, ast.parse(path.read_text()))


def count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many arguments a function has, without `self` and `cls`."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def middle(values: list[int]) -> int:
    """The median of sorted values."""
    return values[len(values) // 2]


def p90(values: list[int]) -> int:
    """The value that nine in ten of sorted ones do not exceed."""
    return values[int(0.9 * (len(values) - 1))]


def documented(tree: ast.Module) -> Iterator[str]:
    """Yields the docstrings of functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and (text := ast.get_docstring(node)):
            yield text


def imports(modules: list[Module]) -> Iterator[tuple[str, str]]:
    """Yields (importer, imported): late imports too, and dotted names in strings."""
    known = {module.name for module in modules}
    for module in modules:
        for node in ast.walk(module.tree):
            for name in mentioned(module, node):
                own = name.removeprefix("lathe.")
                while own and own not in known:
                    own = own.rpartition(".")[0]
                if own and own != module.name:
                    yield module.name, own


def mentioned(module: Module, node: ast.AST) -> list[str]:
    """The dotted names of modules that a node of syntax names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        dotted = re.fullmatch(r"(lathe\.)?(compressor|serving|artefact)(\.[a-z_]\w*)+", node.value)
        return [node.value] if dotted else []
    return []


def crossing(edges: list[tuple[str, str]], one: str, other: str) -> int:
    """How many imports lead from one package to another."""
    return sum(a.partition(".")[0] == one and b.partition(".")[0] == other for a, b in edges)


def circles(edges: list[tuple[str, str]]) -> list[set[str]]:
    """The strongly connected sets of folders that lie side by side in one package."""
    graph: dict[str, set[str]] = defaultdict(set)
    for importer, imported in edges:
        a, b = importer.split("."), imported.split(".")
        if a[0] == b[0] and len(a) > 2 and len(b) > 2 and a[1] != b[1]:
            graph[f"{a[0]}.{a[1]}"].add(f"{b[0]}.{b[1]}")
    reach = {folder: reachable(graph, folder) for folder in graph}
    together = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach if a in reach[a]}
    return [set(circle) for circle in together if len(circle) > 1]


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """All folders that imports lead to."""
    seen: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        if (folder := waiting.pop()) not in seen:
            seen.add(folder)
            waiting.extend(graph.get(folder, ()))
    return seen


def private_words(modules: list[Module]) -> dict[str, int]:
    """The words of the list that files, functions, classes and arguments are called by, with how often."""
    found: dict[str, int] = defaultdict(int)
    for module in modules:
        for name in {module.path.stem, *names(module.tree)}:
            for word in set(re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().strip("_").split("_")) & set(
                WORDS
            ):
                found[word] += 1
    return dict(found)


def names(tree: ast.Module) -> Iterator[str]:
    """Yields the names that a module gives."""
    for node in ast.walk(tree):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
