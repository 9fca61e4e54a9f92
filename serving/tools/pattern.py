"""Matches the parts of a call against a text that may be incomplete, or writes them as a regex."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lathe.serving.tools.call_format import Mark, Pieces, Slot

MAX_SPACE = 64
NAME = re.compile(r"[a-zA-Z0-9_.-]{0,64}")
ID = re.compile(r"[a-zA-Z0-9_-]{0,64}")
NEW_ID = "[a-zA-Z0-9]{9}"
_SPACE = re.compile(r"\s*")
_OPTIONAL_SPACE = "[ \\n]?"


@dataclass(frozen=True, slots=True)
class Match:
    """The result of a match.

    Attributes:
        status: `partial`: all fits, and more has to come.
        end: the end of what matched.
        name: the tool's name, if given.
        id: the call's id, if given.
    """

    status: Literal["full", "partial", "none"]
    end: int = 0
    name: str = ""
    id: str | None = None


class Pattern:
    """Matches parts at the beginning of a text."""

    def __init__(self, pieces: Pieces) -> None:
        self._parts = list(_parts(pieces))

    def match(self, text: str) -> Match:
        at = 0
        found: dict[Slot, str] = {}
        for part in self._parts:
            if isinstance(part, Slot):
                value = (NAME if part is Slot.NAME else ID).match(text, at)
                found[part] = value.group() if value else ""
                at += len(found[part])
                if at < len(text) and not found[part]:
                    return Match("none")
            elif part == " ":
                space = _SPACE.match(text, at)
                at = space.end() if space else at
                if space and len(space.group()) > MAX_SPACE:
                    return Match("none")
            elif text.startswith(part, at):
                at += len(part)
            else:
                return Match("partial" if part.startswith(text[at:]) else "none")
        return Match("full", at, found.get(Slot.NAME, ""), found.get(Slot.ID))


def as_regex(pieces: Pieces, name: str = "") -> str:
    """Returns a regular expression of what a model may write for `pieces`.

    It allows at most one space or line break where whitespace is free.
    """
    written = {Slot.NAME: re.escape(name), Slot.ID: NEW_ID, " ": _OPTIONAL_SPACE}
    return "".join(written.get(part) or re.escape(str(part)).replace("/", r"\/") for part in _parts(pieces))


def _parts(pieces: Pieces) -> Iterator[str | Slot]:
    """Yields marks and slots as they are, and JSON text by characters; " " stands for optional whitespace."""
    for piece in pieces:
        if isinstance(piece, Slot | Mark):
            yield piece
            continue
        for character in piece:
            if character.isspace():
                yield " "
            elif character in "{}[],:":
                yield from (" ", character, " ")
            else:
                yield character
