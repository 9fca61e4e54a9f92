"""Limits of a schema, checked before anything is compiled."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from lathe.serving.structured_output.pattern_length import least_length
from lathe.serving.structured_output.schema_errors import GrammarError

SCHEMA_BYTES = 64 * 1024
SCHEMA_DEPTH = 60
LARGEST_MULTIPLE = 10_000
"""The limit of the least common multiple of all `multipleOf`, the number of the automaton's states."""
LONGEST_TEXT = 10_000
"""Characters that a pattern may ask for at least, or a `minLength` beside patterns: each takes a state, and
all are read again with every token."""


def checked(schema: dict[str, Any]) -> str:
    """Returns the schema as text, in which the order of properties is that of the answer.

    Raises:
        GrammarError: it exceeds a limit.
    """
    multiples = []
    for depth, key, value in _walk(schema):
        if depth > SCHEMA_DEPTH:
            raise GrammarError(f"the schema is nested more than {SCHEMA_DEPTH} deep")
        if key == "x-guidance":
            raise GrammarError("x-guidance is not part of JSON Schema")
        if key == "multipleOf" and _is_positive(value):
            multiples.append(value)
    try:
        text = as_text(schema)
    except ValueError as error:  # an integer of thousands of digits
        raise GrammarError(str(error)) from None
    if len(text) > SCHEMA_BYTES:
        raise GrammarError(f"the schema is larger than {SCHEMA_BYTES} bytes")
    _check_lengths(schema)
    if _states(multiples) > LARGEST_MULTIPLE:
        raise GrammarError(f"multipleOf: the least common multiple is more than {LARGEST_MULTIPLE} steps")
    return text


def _check_lengths(schema: dict[str, Any]) -> None:
    """Checks the lengths that patterns and `minLength` require.

    Raises:
        GrammarError: one is too long.
    """
    found: dict[str, list[float]] = {"pattern": [], "patternProperties": [], "minLength": []}
    for _, key, value in _walk(schema):
        if key == "minLength" and _is_positive(value):
            found[key].append(value)
        elif key == "pattern" and isinstance(value, str):
            found[key].append(least_length(value))
        elif key == "patternProperties" and isinstance(value, dict):
            found[key] += [least_length(pattern) for pattern in value]
    if not found["pattern"] and not found["patternProperties"]:
        return
    for key, lengths in found.items():
        if max(lengths, default=0) > LONGEST_TEXT:
            raise GrammarError(f"{key}: with patterns, no text may need more than {LONGEST_TEXT} characters")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _states(multiples: list[float]) -> int:
    """Returns how many remainders an automaton has to distinguish that checks all of `multiples`."""
    exact = [Fraction(str(multiple)) for multiple in multiples]
    unit = math.lcm(*(multiple.denominator for multiple in exact))
    return math.lcm(*(int(multiple * unit) for multiple in exact))


def _walk(document: dict[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """Yields (depth, key, value) of everything inside; the key of a list's items is empty."""
    stack: list[tuple[int, Any]] = [(1, document)]
    while stack:
        depth, value = stack.pop()
        pairs = value.items() if isinstance(value, dict) else (("", item) for item in value)
        for key, inner in pairs:
            yield depth, key, inner
            if isinstance(inner, dict | list):
                stack.append((depth + 1, inner))


def as_text(schema: dict[str, Any]) -> str:
    """Returns a schema as compact JSON."""
    return json.dumps(schema, separators=(",", ":"))
