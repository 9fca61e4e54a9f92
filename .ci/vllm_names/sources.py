"""An unpacked wheel of vLLM, read and never imported: what its modules define, take and have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_ROOT = "vllm"


@dataclass(frozen=True)
class Signature:
    """What a function or a class may be called with.

    names: what may be given by keyword; None: anything. required: what has to be given. positions: how many
    may be given without a name.
    """

    names: frozenset[str] | None
    required: frozenset[str]
    positions: int | None


@dataclass(frozen=True)
class Found:
    """A definition, and the module that it is in; no node where it is a value."""

    module: Module
    node: Definition | None


class Module:
    """Names of one module, those of branches and of lazy tables too."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.is_package = name, path.name == "__init__.py"
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, Definition] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}
        self.values: set[str] = set()
        self.stars: list[str] = []
        for statement in _statements(self.tree.body):
            self._note(statement)

    def _note(self, node: ast.stmt) -> None:
        if isinstance(node, Definition):
            self.definitions[node.name] = node
        elif isinstance(node, ast.Import):
            self.imports |= {a.asname or a.name.partition(".")[0]: (a.name, None) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = self.absolute(node)
            for alias in node.names:
                if alias.name == "*":
                    self.stars.append(origin)
                else:
                    self.imports[alias.asname or alias.name] = (origin, alias.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self.values |= {name.id for target in targets for name in _names(target)}
            if isinstance(node.value, ast.Dict):
                self._note_lazy(node.value)

    def _note_lazy(self, table: ast.Dict) -> None:
        """`{"Name": ".module:Name"}`, which the module's `__getattr__` looks up."""
        for key, value in zip(table.keys, table.values, strict=True):
            text = _text(value)
            if (name := _text(key)) and text and text.startswith(".") and ":" in text:
                module, _, attribute = text.partition(":")
                self.imports[name] = (self.name + module, attribute)

    def absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])


class Wheel:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def name(self) -> str:
        (metadata,) = self.folder.glob("vllm*.dist-info/METADATA")
        fields = dict(line.split(": ", 1) for line in metadata.read_text().splitlines() if ": " in line)
        return f"{fields['Name']} {fields['Version']}"

    @lru_cache(None)  # noqa: B019  one wheel lives as long as the process
    def module(self, name: str) -> Module | None:
        if name.partition(".")[0] != _ROOT:
            return None
        place = self.folder.joinpath(*name.split("."))
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return Module(name, path)
        return None

    def text(self, path: str) -> str:
        file = self.folder / _ROOT / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def find(self, module: str, name: str, seen: tuple[str, ...] = ()) -> Found | None:
        """Where `from module import name` ends up; None where that fails."""
        place = self.module(module)
        if place is None or f"{module}:{name}" in seen:
            return None
        if name in place.definitions:
            return Found(place, place.definitions[name])
        if name in place.imports:
            origin, attribute = place.imports[name]
            if origin.partition(".")[0] != _ROOT:
                return Found(place, None)
            if attribute is None:
                return Found(place, None) if self.module(origin) else None
            return self.find(origin, attribute, (*seen, f"{module}:{name}"))
        if name in place.values:
            return Found(place, None)
        for origin in place.stars:
            if found := self.find(origin, name, (*seen, f"{module}:{name}")):
                return found
        inner = self.module(f"{module}.{name}")
        return Found(inner, None) if inner else None

    def lineage(self, found: Found) -> Iterator[Found]:
        """A class and, as far as they are vLLM's, its bases."""
        if isinstance(found.node, ast.ClassDef):
            yield found
            for base in found.node.bases:
                base = base.value if isinstance(base, ast.Subscript) else base
                if isinstance(base, ast.Name) and (up := self.find(found.module.name, base.id)):
                    yield from self.lineage(up)

    def method(self, found: Found, name: str) -> Definition | None:
        for cls in self.lineage(found):
            for node in _statements(cls.node.body if cls.node else []):
                if isinstance(node, Definition) and node.name == name:
                    return node
        return None

    def members(self, found: Found) -> set[str]:
        """Names that a class defines, and that its methods set on `self`."""
        return set().union(*(defined(cls.node) for cls in self.lineage(found) if cls.node))

    def signature(self, found: Found) -> Signature:
        """How a function or a class is called."""
        if not isinstance(found.node, ast.ClassDef):
            return signature(found.node) if found.node else Signature(None, frozenset(), None)
        for maker in ("__init__", "__new__"):
            if method := self.method(found, maker):
                return signature(method, bound=True)
        fields = [
            node.target.id
            for cls in self.lineage(found)
            for node in (cls.node.body if cls.node else [])
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
        return Signature(frozenset(fields), frozenset(), len(fields))


def defined(tree: ast.AST) -> set[str]:
    """Functions, variables and attributes that are defined anywhere in it."""
    have: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            have.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            have.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            have.add(node.id)
    return have


def signature(node: ast.AST, bound: bool = False) -> Signature:
    """Of a function; `bound`: without its first parameter."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    named = [*given.posonlyargs, *given.args]
    needed = named[: len(named) - len(given.defaults)]
    needed += [a for a, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is None]
    named, needed = (named[1:], needed[1:]) if bound else (named, needed)
    names = frozenset(a.arg for a in [*named, *given.kwonlyargs])
    return Signature(
        None if given.kwarg else names,
        frozenset(a.arg for a in needed),
        None if given.vararg else len(named),
    )


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields the statements of a body, those within `if`, `try` and `with` too.

    Of what is for type checkers only, it yields what a module declares to have (and makes when it is asked).
    """
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (part for part in node.body if isinstance(part, ast.AnnAssign))
            yield from _statements(node.orelse)
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(node, Definition):
                yield from _statements(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


def _names(target: ast.expr) -> Iterator[ast.Name]:
    return (node for node in ast.walk(target) if isinstance(node, ast.Name))


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
