"""Describes errors of a schema in the terms of JSON Schema, from the messages of llguidance 1.9."""

from __future__ import annotations

import re
from typing import Any

from lathe.serving.structured_output.json_schema import each_schema


class GrammarError(ValueError):
    """The schema cannot be used, or its grammar became too large on the way; the message says why."""


NO_WAY_ON = "the schema leaves no way to go on"
TOO_LARGE = "the schema is too large: take fewer properties or choices at one place, or shorter patterns"
RULES: tuple[tuple[str, str, str], ...] = (
    (r"Current row has|too big|too large|[Tt]oo many|fuel|TooComplex", "", TOO_LARGE),
    (r"Unimplemented keys: \[(.*)\]", "", "not supported"),
    (
        r"oneOf constraints are not supported",
        "oneOf",
        "an answer could match more than one of them; use anyOf, or tell them apart by a required property "
        "with a const",
    ),
    (r"(?s)regex parse error:.*error: (.*)", "pattern", r"\1"),
    (r"lookarounds not supported yet", "pattern", "word boundaries are not supported"),
    (r"Regex is empty", "pattern", "no string matches it together with format, length and other patterns"),
    (r"Unable to determine if regex is empty", "pattern", "the patterns are too complex together"),
    (r"Unknown format: (.*)", "format", r"\1 is not supported"),
    (r"Resource '(.*?)' is not present", "$ref", r"\1 is not in the schema, and nothing is fetched"),
    (r"Pointer '(.*)' does not exist", "$ref", r"the schema has no #\1"),
    (r"Anchor '(.*)' does not exist", "$ref", r"the schema has no anchor \1"),
    (r"Invalid type: (.*)", "type", r"\1 is not a type"),
    (r"Expected f64 for '(.*)', got (.*)", r"\1", r"\2 is not a number"),
    (r"Expected (.*) for '(.*?)'.*, got (.*)", r"\2", r"\3 is not a valid value: \1 expected"),
    (r"patternProperty regexes (.*) are not disjoint", "patternProperties", r"\1 match some keys in common"),
    (
        r"min/maxProperties only supported",
        "minProperties",
        "minProperties and maxProperties are supported where every key in properties is required",
    ),
    (r"required property '(.*)' is unsatisfiable", "required", r"no value is allowed for the property \1"),
    (r"required > maxProperties", "maxProperties", "more properties than that are required"),
    (r"required item is unsatisfiable", "minItems", "no value is allowed for an item that has to be there"),
    (r"incompatible types", "type", "no value is of all the types asked for"),
    (r"schema is false", "false", "it allows no value"),
    (r"anyOf is empty", "anyOf", "nothing to choose from"),
    (r"integer interval (.*) contains no integer values", "minimum", r"there is no integer in \1"),
    (r"does not contain a multiple of (.*)", "multipleOf", r"no multiple of \1 is within the bounds"),
    (r"Failed to generate regex for integer range", "minimum", "the bounds go beyond 64 bits"),
    (r"invalid multiple of", "multipleOf", "it has to be a positive number"),
    (r"Unsatisfiable schema: ((\w+) \(.*)", r"\2", r"\1"),
    (r"(\S+) must be (.*)", r"\1", r"it has to be \2"),
    (r"NoExtension", "", NO_WAY_ON),
    (
        r"decoder type|prepend decoder|loading tokenizer",
        "",
        "no schema can be enforced with this model's tokenizer",
    ),
)
"""(what llguidance says, the keyword at fault, what that means); the first that is found counts."""
ALSO = {
    "pattern": ("patternProperties", "format", "maxLength"),
    "anyOf": ("enum", "type"),
    "minimum": ("maximum", "exclusiveMinimum", "exclusiveMaximum", "const", "enum"),
    "type": ("const", "enum"),
    "minItems": ("prefixItems",),
    "$ref": ("$schema",),
}
"""Keywords that llguidance may mean instead, where a schema does not have the first."""


def explained(message: str, schema: dict[str, Any]) -> str:
    """Returns the keyword at fault, where it is, and why; for a message about `schema`."""
    for expression, keyword, meaning in RULES:
        if found := re.search(expression, message):
            reason = found.expand(meaning)
            if expression.startswith("Unimplemented"):
                keywords = re.findall(r'"(.*?)"', found[1])
                return f"{', '.join(keywords)}: {reason}{_place(keywords[0], '', schema)}"
            name = _present(found.expand(keyword), schema)
            lead = f"{name}: " if name and not reason.startswith(name) else ""
            return lead + reason + (_place(name, found[0], schema) if name else "")
    if message == NO_WAY_ON and any("$ref" in inner for _, inner in each_schema(schema)):
        return f"$ref: {message}, as if a reference led back to itself"
    return _one_line(message)


def _present(keyword: str, schema: dict[str, Any]) -> str:
    """Returns the keyword itself, or the one that the schema has in its place."""
    found = {name for _, inner in each_schema(schema) for name in inner}
    return next((name for name in (keyword, *ALSO.get(keyword, ())) if name in found), keyword)


def _place(keyword: str, said: str, schema: dict[str, Any]) -> str:
    """Returns where the schema has the keyword; the place whose value the message cites, if any."""
    places = [(pointer, str(inner[keyword])) for pointer, inner in each_schema(schema) if keyword in inner]
    cited = [(place, value) for place, value in places if value in said]
    longest = sorted(cited, key=lambda place: -len(place[1]))
    first = next((place for place, _ in longest + places), "#")
    return "" if first == "#" else f" (in {first})"


def _one_line(message: str) -> str:
    return " ".join(message.replace("<non-verbose/>", "").split())
