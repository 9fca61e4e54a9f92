"""Replaces key patterns that are used up by the keys that a schema names.

After all of a pattern's keys llguidance 1.9 allows a comma, and then nothing: such patterns are written out
as properties. llguidance itself decides what is used up, as its patterns are not those of Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from lathe.serving.structured_output.json_schema import each_schema, rewritten

MOST_QUESTIONS = 256
"""The most questions to llguidance about one whole schema; with more, its patterns stay as they are."""

Json = dict[str, Any]
CanFollow = Callable[[Json, str], bool]
"""Returns whether a text, and then anything, may begin a document of a schema."""


def all_written_out(schema: Json, can_follow: CanFollow) -> Json:
    """Returns an equivalent schema, with the used-up patterns of all its parts as properties."""
    asked = sum(len(_anchored(part)) * (len(_keys(part)) + 1) for _, part in each_schema(schema))
    if not 0 < asked <= MOST_QUESTIONS:
        return schema
    return rewritten(schema, partial(_written_out, can_follow=can_follow))


def _keys(schema: Json) -> list[str]:
    """Returns the keys that a schema names."""
    properties, required = schema.get("properties"), schema.get("required")
    named = list(properties) if isinstance(properties, dict) else []
    named += required if isinstance(required, list) else []
    return list(dict.fromkeys(key for key in named if isinstance(key, str)))


def _anchored(schema: Json) -> list[str]:
    """Returns the patterns that may have finitely many keys."""
    patterns = schema.get("patternProperties")
    return [name for name in patterns if "^" in name and "$" in name] if isinstance(patterns, dict) else []


def _written_out(schema: Json, can_follow: CanFollow) -> Json:
    keys, anchored = _keys(schema), _anchored(schema)
    properties = schema.get("properties", {})
    if not keys or not anchored or not isinstance(properties, dict):
        return schema
    patterns = schema["patternProperties"]
    properties, left = dict(properties), {}
    for pattern, value in patterns.items():
        candidates = keys if pattern in anchored else []
        of_it = [key for key in candidates if can_follow(_only(pattern), _object([key]))]
        if not of_it or can_follow(_only(pattern, of_it), _object(of_it) + ',"'):
            left[pattern] = value
            continue
        for key in of_it:
            properties[key] = {"allOf": [properties[key], value]} if key in properties else value
    if len(left) == len(patterns):
        return schema
    others = {name: value for name, value in schema.items() if name != "patternProperties"}
    return {**others, "properties": properties} | ({"patternProperties": left} if left else {})


def _only(pattern: str, required: list[str] | None = None) -> Json:
    """Returns the schema of objects that have keys of this pattern only, all of them null."""
    return {
        "type": "object",
        "patternProperties": {pattern: {"type": "null"}},
        "required": required or [],
        "additionalProperties": False,
    }


def _object(keys: list[str]) -> str:
    """Returns an object that is not closed."""
    return json.dumps(dict.fromkeys(keys), separators=(",", ":"))[:-1]
