"""The grammar of answers that may call tools, in llguidance's dialect of Lark.

Text is free until a call begins; from there on the name is that of a tool, and the arguments match its
schema. Special tokens that are no marks of calls stay as free within text as they are without tools.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol

from lathe.serving.tools.call_format import Mark, Piece, Pieces, ToolCallFormat
from lathe.serving.tools.pattern import as_regex

Json = dict[str, Any]
Choice = Literal["none", "auto", "required"]


class Vocabulary(Protocol):
    """The part of a tokenizer that a grammar needs."""

    def special(self, text: str) -> int | None:
        """Returns the special token that `text` is, or None where it is written with ordinary ones."""

    @property
    def special_tokens(self) -> Collection[int]:
        """All special tokens that do not end an answer."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called; `strict`: its schema is enforced whole, or refused."""

    name: str
    parameters: Json
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallSpec:
    """The answers that are allowed.

    Attributes:
        format: how the model writes calls.
        tools: the functions that may be called.
        choice: whether an answer has to call one, may, or must not.
        several: whether it may have more than one call.
        answer: the schema of an answer that calls nothing, if it has to match any.
    """

    format: ToolCallFormat
    tools: Sequence[Tool]
    choice: Choice
    several: bool
    answer: Json | None = None


def lark(spec: ToolCallSpec, vocabulary: Vocabulary, json_options: Json) -> str:
    """Returns the grammar of `spec`; `json_options` are llguidance's, for every schema."""
    writer = _Writer(spec.format, vocabulary, spec.several and spec.format.several)
    lines = [f"start: {' | '.join(_starts(spec, writer))}"]
    if spec.choice != "required":
        lines += writer.words(spec.tools)
    if spec.answer is not None:
        lines.append(_schema("answer", spec.answer, json_options))
    if spec.choice != "none":
        lines += writer.calls(spec.tools)
        for number, tool in enumerate(spec.tools):
            options = json_options | {"lenient": not tool.strict}
            lines.append(_schema(f"arguments_{number}", closed(tool.parameters), options))
    return "\n".join(lines) + "\n"


def closed(parameters: Json) -> Json:
    """Returns the schema of a call's arguments, which is that of an object.

    Where it lists its properties and does not mention others, it allows no others.
    """
    properties, required = parameters.get("properties"), parameters.get("required", [])
    names = list(properties) if isinstance(properties, dict) else None
    if names is None or not isinstance(required, list) or parameters.keys() & _OPENS:
        return parameters | {"type": "object"}
    if all(name in names for name in required):
        parameters = parameters | {"additionalProperties": False}
    return parameters | {"type": "object"}


_OPENS = {
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "$dynamicRef",
    "if",
    "dependentSchemas",
}


def _starts(spec: ToolCallSpec, writer: _Writer) -> Iterator[str]:
    """Yields the kinds of answer that are allowed."""
    if spec.choice != "required":
        if spec.answer is not None:
            yield "answer"
        elif spec.choice == "none" or writer.opening is None:
            yield "words?"
        else:
            yield f"words? ({writer.opening} opened)?"
    if spec.choice == "none":
        return
    if spec.format.bare:
        yield "call"
        if spec.choice == "required" and writer.opening:
            yield f"{writer.opening} opened"
    elif spec.choice == "required" or spec.answer is not None:
        yield f"{writer.opening or writer.terminals((spec.format.opening,))} opened"
    elif writer.opening is None:
        yield "leading opened"


class _Writer:
    """Writes the rules of one format for one vocabulary."""

    def __init__(self, call_format: ToolCallFormat, vocabulary: Vocabulary, several: bool) -> None:
        self._format, self._several = call_format, several
        self._tokens = {mark: vocabulary.special(mark) for mark in call_format.marks}
        self._others = _ranges(set(vocabulary.special_tokens) - set(self._tokens.values()))
        self.opening = (
            self.terminals((call_format.opening,)) if self._tokens[call_format.opening] is not None else None
        )
        """The token that opens calls; None where it is spelled out."""

    def terminals(self, pieces: Pieces, name: str = "") -> str:
        """Returns tokens for the marks that are tokens, and regular expressions for the rest."""
        terms = []
        for special, group in groupby(pieces, self._token):
            if special is not None:
                terms += [f"<[{special}]>"] * len(list(group))
            else:
                terms.append(f"/{as_regex(tuple(group), name)}/")
        return " ".join(terms)

    def words(self, tools: Sequence[Tool]) -> list[str]:
        """Returns the rules of text that begins no call; `leading`, up to an opening that is spelled out."""
        mark = as_regex((self._format.opening,))
        begun = [rf"(.|\n)*{mark}(.|\n)*"]
        first = f"TEXT: /(.|\\n)+/ & ~/{begun[0]}/"
        lines = [first]
        start = "TEXT"
        if self._format.bare:
            heads = "|".join(as_regex(self._format.head, tool.name) for tool in tools)
            lines.append(f"FIRST: TEXT & ~/[ \\n]*({heads})(.|\\n)*/")
            start = "FIRST"
        if self._others:
            lines += [f"other: <[{self._others}]>", f"words: {start} | {start}? other (TEXT | other)*"]
        else:
            lines.append(f"words: {start}")
        if self.opening is None and not self._format.bare:
            lines.append(f"upto[lazy]: /(.|\\n)*/ /{mark}/")
            lines.append("leading: upto" + (" | TEXT? other (TEXT | other)* upto" if self._others else ""))
        return lines

    def calls(self, tools: Sequence[Tool]) -> Iterator[str]:
        """Yields the rules of calls: `opened`, what follows an opening, and `call`, one call."""
        call_format = self._format
        before, closing = self.terminals(call_format.before), self.terminals(call_format.closing)
        if not self._several:
            yield f"opened: {before} call {closing}"
        elif call_format.more is not None:
            yield f"opened: {before} call ({self.terminals(call_format.more)} call)* {closing}"
        else:
            opening = self.opening or self.terminals((call_format.opening,))
            yield f"opened: {before} call {closing} (/[ \\n]?/ {opening} {before} call {closing})*"
        yield "call: " + " | ".join(f"call_{number}" for number in range(len(tools)))
        tails = [self.terminals(tail) for tail in call_format.tails]
        tail = f"({' | '.join(tails)})" if any(tails) else ""
        for number, tool in enumerate(tools):
            yield f"call_{number}: {self.terminals(call_format.head, tool.name)} arguments_{number} {tail}"

    def _token(self, piece: Piece) -> int | None:
        return self._tokens[piece] if isinstance(piece, Mark) else None


def _schema(rule: str, schema: Json, options: Json) -> str:
    return f"{rule}: %json {json.dumps(schema | {'x-guidance': options}, separators=(',', ':'))}"


def _ranges(tokens: Iterable[int | None]) -> str:
    """Returns tokens as ranges, like `1-3,7`."""
    ranges: list[list[int]] = []
    for token in sorted(token for token in tokens if token is not None):
        if ranges and token == ranges[-1][1] + 1:
            ranges[-1][1] = token
        else:
            ranges.append([token, token])
    return ",".join(f"{first}-{last}" for first, last in ranges)
