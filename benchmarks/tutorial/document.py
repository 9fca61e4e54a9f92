"""A page of commands and what they print, read from Markdown.

In a block of ```console, a line that begins with `$ ` is a command (a backslash at its end continues it) and
what follows is its output. `...` in an output stands for anything. Numbers, bars and rules are compared as
such and not by their value, which differs from run to run.
"""

from __future__ import annotations

import doctest
import re
from dataclasses import dataclass
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$|^## ([^\n]*)$", re.MULTILINE | re.DOTALL)
_NUMBER = r"(?:(?<!\w)[+-])?\d+(?:[.,]\d+)*"
_ALIKE = {_NUMBER: "0", r"[█░]+": "█", r"[━─]+": "─", r"[^\S\n]+": " ", r" *\n *": "\n"}
"""What is taken for the same, by what it is written as before it is compared."""


@dataclass(frozen=True)
class Step:
    """A command and the output that the page promises; empty where it promises none."""

    section: str
    command: str
    expected: str = ""

    @property
    def serves(self) -> bool:
        """Whether it goes on until it is told to stop: it runs to the end of its section."""
        return self.command.startswith("lathe serve ")


def read(text: str) -> list[Step]:
    """The steps of a page, in order."""
    section, found = "", []
    for block, heading in _BLOCK.findall(text):
        section = heading or section
        found += [Step(section, *parts) for parts in _commands(block)]
    return found


def _commands(block: str) -> list[tuple[str, str]]:
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
        found.append(("\n".join(lines[:end]), "\n".join(lines[end:]).strip()))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether a command printed what the page promises."""
    return doctest.OutputChecker().check_output(_alike(expected), _alike(printed), doctest.ELLIPSIS)


def _alike(text: str) -> str:
    text = text.replace("...", "\0")
    for pattern, written in _ALIKE.items():
        text = re.sub(pattern, written, text)
    return text.replace("\0", "...").strip() + "\n"
