"""Finds the fields of a request that a server's 400 or 422 names, in the phrases of known servers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

NAME = r"[\"'`]?([A-Za-z_][\w.]*)[\"'`]?"
LIST = rf"({NAME}(?:\s*(?:,|and)\s*{NAME})*)"
WRONG = r"(?:unknown|unrecogni[sz]ed|unsupported|unexpected|extra|additional|invalid|undefined|disallowed)"
THING = r"(?:field|argument|parameter|param|property|propertie|key|name|option|attribute|input|value)"
NOT_TAKEN = (
    r"(?:not\s+(?:\w+\s+)?(?:supported|permitted|allowed|recogni[sz]ed|accepted|available|known)|unsupported|"
    r"unknown|unexpected|forbidden|deprecated)"
)
PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # OpenAI: Unrecognized request argument supplied: x; Google: Unknown name "x"; Rust: unknown field `x`
        rf"{WRONG}\s+(?:request\s+|body\s+|json\s+|keyword\s+)*{THING}(?:s|\(s\))?\s*"
        rf"(?:supplied|provided|found|in\s+(?:the\s+)?(?:request|body)(?:\s+body)?)?\s*:?\s*{LIST}",
        # pydantic: x: Extra inputs are not permitted, on one line or on two
        rf"{NAME}\s*:?\s+Extra (?:inputs|fields) (?:are )?not permitted",
        # JSON schema: Additional properties are not allowed ('x' was unexpected)
        rf"Additional properties are not allowed \({LIST}",
        # Groq: property 'x' is unsupported; OpenAI: 'x' is not supported with this model
        rf"{NAME}\s+(?:{THING}\s+)?(?:is|are|was|were)\s+{NOT_TAKEN}",
        r"[\"'`]([A-Za-z_][\w.]*)[\"'`] does not support",
        rf"does(?: not|n't) (?:support|accept|allow) (?:the )?(?:{THING}\s+)?{NAME}",
    )
)
REFUSES = re.compile(
    rf"{WRONG}|{NOT_TAKEN}|\bnot\s+(?:a\s+)?(?:valid|defined|found|find|be|have)\b|\bno such\b|\bonly\b",
    re.IGNORECASE,
)
"""Matches any text that refuses something."""
POINTERS = ("param", "additionalProperty")
"""Fields of an error that name a field of the request: OpenAI's, and JSON schema validators'."""
LOCATION = re.compile(r"[\"']loc[\"']:\s*[(\[]([^)\]]*)[)\]]")
WORD = re.compile(r"[A-Za-z_]\w*")


def refused_fields(body: str, known: Collection[str] = ()) -> set[str]:
    """Returns the field names in an error body, each part of a path by itself.

    They are read from its fields for that (`param`, `loc`), or else from its words. Where no known phrase
    matches, the first word of `known` in a text that refuses something is taken.
    """
    try:
        document = json.loads(body)
    except ValueError:
        document = body
    texts = list(_texts(document))
    named = set(_pointed(document))
    for text in texts:
        for location in LOCATION.findall(text):  # pydantic's errors as Python prints them
            named.update(WORD.findall(location))
    if not named:
        named = {word for text in texts for pattern in PATTERNS for word in _words(pattern, text)}
        if known and not named & set(known) and any(REFUSES.search(text) for text in texts):
            named |= set([word for text in texts for word in WORD.findall(text) if word in known][:1])
    return named


def _pointed(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _pointed(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            if name in POINTERS and isinstance(part, str):
                yield from WORD.findall(part)
            elif name == "loc" and isinstance(part, list):
                yield from (one for one in part if isinstance(one, str))
            else:
                yield from _pointed(part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _words(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    for found in pattern.finditer(text):
        for group in found.groups():
            yield from WORD.findall(group or "")
