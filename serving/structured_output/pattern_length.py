"""Estimates how long a text a regular expression requires, without compiling it."""

from __future__ import annotations

import re

TOKEN = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|\{(\d+)(?:,\d*)?\}|.", re.DOTALL)
MOST_DIGITS = 9


def least_length(pattern: str) -> int:
    """Returns an upper bound of the shortest match: all alternatives and optional parts are counted."""
    open_groups = [[0, 0]]
    """For each group, [length up to the last atom, length of that atom]."""
    for found in TOKEN.finditer(pattern):
        group, text = open_groups[-1], found[0]
        if text == "(":
            open_groups.append([0, 0])
        elif text == ")" and len(open_groups) > 1:
            atom = sum(open_groups.pop())
            _append(open_groups[-1], atom)
        elif found[1]:
            group[1] *= int(found[1]) if len(found[1]) <= MOST_DIGITS else 10**MOST_DIGITS
        elif text not in "?*+|^$":
            _append(group, 1)
    return sum(map(sum, open_groups))


def _append(group: list[int], atom: int) -> None:
    group[0] += group[1]
    group[1] = atom
