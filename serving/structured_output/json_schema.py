"""JSON schemas as documents: the schemas inside a schema, and keywords without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SINGLES = (
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
)
IDLE: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "propertyNames": (True, {}),
    "not": (False,),
    "minContains": (0,),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}
"""Values of keywords that forbid nothing."""

Json = dict[str, Any]


def each_schema(schema: Json, pointer: str = "#") -> Iterator[tuple[str, Json]]:
    """Yields (JSON pointer, schema) of a schema and of all schemas inside it, outer ones first."""
    yield pointer, schema
    for path, inner in _inner(schema):
        yield from each_schema(inner, f"{pointer}/{path}")


def definitions(schema: Json) -> Json:
    """Returns the definitions that the schemas inside may refer to."""
    return {name: schema[name] for name in ("$defs", "definitions") if name in schema}


def rewritten(schema: Json, change: Callable[[Json], Json]) -> Json:
    """Returns a copy in which `change` was applied to every schema, inner ones first."""
    copy = dict(schema)
    for name in MAPS:
        if isinstance(copy.get(name), dict):
            copy[name] = {key: _changed(value, change) for key, value in copy[name].items()}
    for name in dict.fromkeys(LISTS + SINGLES):
        value = copy.get(name)
        if isinstance(value, list) and name in LISTS:
            copy[name] = [_changed(item, change) for item in value]
        elif name in SINGLES and name in copy:
            copy[name] = _changed(value, change)
    return change(copy)


def without_idle(schema: Json) -> Json:
    """Returns the schema without keywords whose values forbid nothing."""
    kept = {name: value for name, value in schema.items() if not _idle(name, value)}
    if not {"then", "else"} & kept.keys():
        kept.pop("if", None)
    if "if" not in kept:
        kept.pop("then", None)
        kept.pop("else", None)
    return kept


def _idle(name: str, value: Any) -> bool:
    return any(value == idle and type(value) is type(idle) for idle in IDLE.get(name, ()))


def _changed(value: Any, change: Callable[[Json], Json]) -> Any:
    return rewritten(value, change) if isinstance(value, dict) else value


def _inner(schema: Json) -> Iterator[tuple[str, Json]]:
    for name in MAPS:
        if isinstance(schema.get(name), dict):
            for key, value in schema[name].items():
                if isinstance(value, dict):
                    yield f"{name}/{key}", value
    for name in dict.fromkeys(LISTS + SINGLES):
        value = schema.get(name)
        if isinstance(value, dict) and name in SINGLES:
            yield name, value
        elif isinstance(value, list) and name in LISTS:
            yield from ((f"{name}/{i}", item) for i, item in enumerate(value) if isinstance(item, dict))
