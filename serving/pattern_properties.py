"""Patterns of keys that are used up by the keys that a schema names.

After all of a pattern's keys llguidance 1.9 allows a comma, and then nothing: such patterns are written out
as properties. It decides itself what is used up, as its patterns are not those of Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_PATTERNS = 32
MOST_KEYS = 32

Json = dict[str, Any]
CanFollow = Callable[[Json, str], bool]
"""Whether a text, and then anything, may begin a document of a schema."""


def written_out(schema: Json, can_follow: CanFollow) -> Json:
    """The same schema, its used-up patterns as properties."""
    patterns, properties = schema.get("patternProperties"), schema.get("properties", {})
    required = schema.get("required", [])
    if not isinstance(patterns, dict) or not isinstance(properties, dict) or not isinstance(required, list):
        return schema
    keys = [key for key in dict.fromkeys([*properties, *required]) if isinstance(key, str)]
    if not keys or len(keys) > MOST_KEYS or len(patterns) > MOST_PATTERNS:
        return schema
    properties, left = dict(properties), {}
    for pattern, value in patterns.items():
        of_it = [key for key in keys if can_follow(_only(pattern), _object([key]))]
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
    """Of objects that have keys of this pattern only, all of them null."""
    return {
        "type": "object",
        "patternProperties": {pattern: {"type": "null"}},
        "required": required or [],
        "additionalProperties": False,
    }


def _object(keys: list[str]) -> str:
    """An object that is not closed."""
    return json.dumps(dict.fromkeys(keys), separators=(",", ":"))[:-1]
