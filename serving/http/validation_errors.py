"""What is wrong with a request, in one sentence. Of a field that may be one of several things, the complaint
is about the one that the value comes closest to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

MISMATCH = "Input should be a valid "
WORDS = (
    ("Value error, ", ""),
    ("valid dictionary", "valid object"),
    (" after validation", ""),
    ("Extra inputs are not permitted", "there is no such field here"),
    ("Field required", "this field is missing"),
)
"""Of the library, and what to say to a client in their place."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """`path`: of the value at fault, as the document has it; `cause`: what a validator of ours raised."""

    path: Path
    message: str
    cause: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An error, and how it was reached: `union` is the path of the value that may be one of several things,
    and `branch` the one that was tried; both are empty where there is no choice.
    """

    path: Path
    union: Path
    branch: str
    error: Any

    @property
    def closeness(self) -> tuple[int, list[int], bool]:
        """How far the branch went: the deeper and the later in a list, the closer."""
        at = [part for part in self.path if isinstance(part, int)]
        return len(self.path), at, not self.error["msg"].startswith(MISMATCH)


def describe_problem(error: ValidationError, document: Any) -> FieldProblem:
    """About the first thing that is wrong with a document."""
    found = [_locate(one, document) for one in error.errors(include_url=False, include_input=False)]
    first = found[0]
    if first.branch:
        branches: dict[str, _Found] = {}
        for one in found:
            if one.branch and one.union == first.union:
                branches.setdefault(one.branch, one)
        first = max(branches.values(), key=lambda one: one.closeness)
        if first.path == first.union:
            return FieldProblem(first.path, _worded(_choice([one.error["msg"] for one in branches.values()])))
    message = first.error["msg"].partition(" or instance of ")[0]
    return FieldProblem(first.path, _worded(message), first.error.get("ctx", {}).get("error"))


def _worded(message: str) -> str:
    for theirs, ours in WORDS:
        message = message.replace(theirs, ours)
    return message


def _locate(error: Any, document: Any) -> _Found:
    """Where in the document an error is; what is in its location and not in the document names a branch."""
    path: Path = ()
    union: Path = ()
    branch = ""
    value, last = document, len(error["loc"]) - 1
    for at, part in enumerate(error["loc"]):
        if _has(value, part):
            value = value[part]
        elif not (at == last and error["type"] == "missing"):
            union, branch = (union, branch) if branch else (path, str(part))
            continue
        path += (part,)
    return _Found(path, union, branch, error)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _choice(messages: Sequence[str]) -> str:
    """`Input should be a valid string or list`."""
    kinds = [message.removeprefix(MISMATCH) for message in messages if message.startswith(MISMATCH)]
    return MISMATCH + " or ".join(dict.fromkeys(kinds)) if kinds else messages[0]
