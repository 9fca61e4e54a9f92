"""Describes what is wrong with a request in one sentence.

Where a field may have one of several types, the description is about the one that the value comes closest to.
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
"""Words of pydantic, and the words for clients in their place."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """The first problem of a document.

    Attributes:
        path: where the value at fault is in the document.
        message: what is wrong with it.
        cause: the exception that a validator of ours raised.
    """

    path: Path
    message: str
    cause: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An error, and how it was reached.

    Attributes:
        path: where the value at fault is in the document.
        union: the path of the value that may have one of several types; empty where there is no choice.
        branch: the type that was tried; empty where there is no choice.
        error: pydantic's description.
    """

    path: Path
    union: Path
    branch: str
    error: Any

    @property
    def closeness(self) -> tuple[int, list[int], bool]:
        """How far the branch went: deeper, and later in a list, is closer."""
        at = [part for part in self.path if isinstance(part, int)]
        return len(self.path), at, not self.error["msg"].startswith(MISMATCH)


def describe_problem(error: ValidationError, document: Any) -> FieldProblem:
    """Returns the first problem of a document."""
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
    """Finds an error's place in the document; parts of its location that the document lacks name a branch."""
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
    """Joins messages, as in `Input should be a valid string or list`."""
    kinds = [message.removeprefix(MISMATCH) for message in messages if message.startswith(MISMATCH)]
    return MISMATCH + " or ".join(dict.fromkeys(kinds)) if kinds else messages[0]
