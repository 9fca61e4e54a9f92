"""What one of our files uses of vLLM, and what of it a wheel does not have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import torch
from handed import HANDED
from sources import Definition, Found, Wheel, defined, signature

Check = tuple[str, bool]
"""What was looked for, and whether it is there."""
_ROOT = "vllm"
_ELSEWHERE = frozenset(dir(torch.nn.Module)) | {"__class__"}


class File:
    """One of our files. `path`: from the repository's root."""

    def __init__(self, wheel: Wheel, root: Path, path: str) -> None:
        self._wheel, self._path = wheel, path
        self._tree = ast.parse((root / path).read_text(encoding="utf-8"))
        self._bound: dict[str, Found] = {}
        self._handed = {expression: self._found(place) for expression, place in HANDED.get(path, {}).items()}

    def checks(self) -> Iterator[Check]:
        yield from self._imports(self._tree.body)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield from self._call(node)
            elif isinstance(node, ast.Attribute):
                yield from self._attribute(node)
            elif isinstance(node, ast.ClassDef):
                yield from self._subclass(node)

    def _found(self, place: str) -> Found | None:
        module, _, name = place.partition(":")
        return self._wheel.find(module, name)

    def _imports(self, body: list[ast.stmt]) -> Iterator[Check]:
        for node in body:
            if isinstance(node, ast.Try):  # the branches of a `try` are alternatives
                branches = [node.body, *(handler.body for handler in node.handlers)]
                tried = [list(self._imports(branch)) for branch in branches]
                yield from next((t for t in tried if all(ok for _, ok in t)), tried[0])
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                if node.module.partition(".")[0] == _ROOT:
                    for alias in node.names:
                        found = self._wheel.find(node.module, alias.name)
                        if found:
                            self._bound[alias.asname or alias.name] = found
                        yield f"from {node.module} import {alias.name}", found is not None
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.partition(".")[0] == _ROOT:
                        yield f"import {alias.name}", self._wheel.module(alias.name) is not None
            elif isinstance(node, Definition | ast.If | ast.With):
                yield from self._imports(node.body)

    def _called(self, node: ast.expr) -> tuple[str, Found] | None:
        """A class or function of vLLM's, a method of an object that is handed to us, or of `super()`."""
        name = ast.unparse(node)
        if name in self._bound:
            return name, self._bound[name]
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner == _ROOT and (found := self._wheel.find(_ROOT, node.attr)):
                return name, found
            if (cls := self._handed.get(owner) or self._bound.get(owner)) and cls.node:
                method = self._wheel.method(cls, node.attr)
                return (name, Found(cls.module, method)) if method else None
        return None

    def _call(self, node: ast.Call) -> Iterator[Check]:
        if (called := self._called(node.func)) is None:
            return
        name, found = called
        takes = self._wheel.signature(found)
        spread = [key for word in node.keywords if word.arg is None for key in self._keys(word.value)]
        for key in [word.arg for word in node.keywords if word.arg] + spread:
            yield f"{name}({key}=)", takes.names is None or key in takes.names
        places = len(node.args) + (isinstance(found.node, Definition) and _is_method(found.node))
        if node.args and takes.positions is not None:
            yield f"{name} with {len(node.args)} positional arguments", places <= takes.positions

    def _keys(self, value: ast.expr) -> Iterator[str]:
        """Names in what is given as `**value`: a dictionary of this file, or what a method here returns."""
        wanted = value.func if isinstance(value, ast.Call) else value
        name = wanted.attr if isinstance(wanted, ast.Attribute) else ast.unparse(wanted)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                for answer in ast.walk(node):
                    if isinstance(answer, ast.Return) and isinstance(answer.value, ast.Dict):
                        yield from _strings(answer.value.keys)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                        yield from _strings([target.slice])
                    elif ast.unparse(target) == name and isinstance(node.value, ast.Dict):
                        yield from _strings(node.value.keys)

    def _attribute(self, node: ast.Attribute) -> Iterator[Check]:
        owner = ast.unparse(node.value)
        if owner == _ROOT and isinstance(node.value, ast.Name) and node.attr != "__path__":
            yield f"vllm.{node.attr}", self._wheel.find(_ROOT, node.attr) is not None
        elif owner in self._handed:
            cls = self._handed[owner]
            have = self._wheel.members(cls) if cls else set()
            yield f"{HANDED[self._path][owner]}.{node.attr}", node.attr in have

    def _subclass(self, node: ast.ClassDef) -> Iterator[Check]:
        """Of a class of vLLM's: what is overridden is called as before, what is inherited is there."""
        for base in node.bases:
            found = self._bound.get(ast.unparse(base))
            if found is None or not isinstance(found.node, ast.ClassDef):
                continue
            own = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            for method in own:
                if theirs := self._wheel.method(found, method.name):
                    label = f"{node.name}.{method.name} over {found.node.name}'s"
                    yield label, _replaces(method, theirs)
            yield from self._inherited(node, found)

    def _inherited(self, node: ast.ClassDef, found: Found) -> Iterator[Check]:
        have, own = self._wheel.members(found), _ELSEWHERE | defined(self._tree)
        for part in ast.walk(node):
            owner = ast.unparse(part.value) if isinstance(part, ast.Attribute) else ""
            if owner == "super()" or (owner == "self" and part.attr not in own):
                yield f"{node.name}: inherited {part.attr}", part.attr in have | _ELSEWHERE


def _replaces(ours: ast.FunctionDef, theirs: Definition) -> bool:
    """Whether our method takes what theirs does.

    A constructor may leave out what has a default: it is called by code that knows ours.
    """
    own, old = signature(ours, bound=True), signature(theirs, bound=True)
    asked = old.required if ours.name == "__init__" else (old.names or old.required)
    return own.names is None or (asked <= own.names and (own.required <= asked or ours.name == "__init__"))


def _is_method(node: Definition) -> bool:
    arguments = getattr(node, "args", None)
    return bool(arguments and arguments.args and arguments.args[0].arg in ("self", "cls"))


def _strings(nodes: list[ast.expr | None] | list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
