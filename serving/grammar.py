"""Answers that have to match a JSON schema: a schema becomes a grammar, a grammar masks tokens.

llguidance does the work. Nothing is precomputed for a schema, so that a step of any grammar costs
microseconds; what a hostile schema could make large is refused before it is compiled or limited inside.

Legend: V vocabulary.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from fractions import Fraction
from typing import Any

import llguidance
import numpy as np

from serving.json_schema import definitions, each_schema, rewritten, without_idle
from serving.pattern_properties import written_out
from serving.schema_errors import NO_WAY_ON, explained
from serving.tokenizer import Tokenizer

SCHEMA_BYTES = 64 * 1024
SCHEMA_DEPTH = 60
LARGEST_MULTIPLE = 10_000
"""Of the least common multiple of all `multipleOf`: the automaton has as many states."""
KEPT = 64
MOST_BLAMED = 64
"""Parts of a schema that are looked at for the one at fault."""
WHITESPACE = r"[ \n]{0,16}"
"""Between the parts of a document; without an end, a weak model may never stop writing it."""
LIMITS = llguidance.LLParserLimits(
    max_grammar_size=50_000,
    max_lexer_states=10_000,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""At most about 20 MB and 10 ms a step; ordinary schemas need a thousandth of it."""


class GrammarError(ValueError):
    """The schema cannot be used, or its grammar became too large on the way; the message tells why."""


class Constraint:
    """What one sequence may say next. Used from one thread."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> np.ndarray:
        """bool [V]; the end tokens are allowed where the document may end. Raises GrammarError."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = np.unpackbits(packed, bitorder="little")[: self._vocab_size].astype(bool)
        if not allowed_V.any():
            raise GrammarError(NO_WAY_ON)
        return allowed_V

    def accept(self, token: int) -> None:
        """`token` was chosen. Raises GrammarError."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(explained(self._matcher.get_error(), {}))


class Grammar:
    """A compiled schema, shared by all sequences that have to match it."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def begin(self) -> Constraint:
        return Constraint(self._matcher.deep_copy(), self._vocab_size)


class Grammars:
    """Compiles schemas for one model and keeps the last `KEPT`, in memory. Thread-safe; one at a time."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = sorted(eos)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._tokens: llguidance.LLTokenizer | None = None

    def compile(self, schema: dict[str, Any]) -> Grammar:
        """Raises GrammarError."""
        text = _checked(schema)
        with self._lock:
            grammar = self._kept.pop(text, None) or self._compiled(schema)
            self._kept[text] = grammar
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return grammar

    def _compiled(self, schema: dict[str, Any]) -> Grammar:
        """Checked so far that an answer can begin."""
        if not self._eos:
            raise GrammarError("this model has no end token")
        try:
            plain = rewritten(rewritten(schema, without_idle), self._written_out)
            grammar = Grammar(self._matcher(plain), self._vocab_size)
            self._follows(grammar, '{"')
        except ValueError as error:
            raise GrammarError(self._explained(str(error), schema)) from None
        return grammar

    def _explained(self, message: str, schema: dict[str, Any]) -> str:
        """In place of "a required part is unsatisfiable", why that part is."""
        inner = list(each_schema(schema))[:MOST_BLAMED] if "required" in message else []
        for pointer, part in reversed(inner[1:]):
            try:
                self._matcher(definitions(schema) | part)
            except ValueError as error:
                if "Unsatisfiable" in str(error):
                    return f"{explained(str(error), part)} (in {pointer})"
        return explained(message, schema)

    def _written_out(self, schema: dict[str, Any]) -> dict[str, Any]:
        return written_out(schema, self._can_follow)

    def _can_follow(self, schema: dict[str, Any], text: str) -> bool:
        try:
            return self._follows(Grammar(self._matcher(schema), self._vocab_size), text)
        except ValueError:
            return False

    def _follows(self, grammar: Grammar, text: str) -> bool:
        """Whether a document may begin with `text`. Raises GrammarError: then nothing may follow."""
        constraint = grammar.begin()
        allowed_V = constraint.allowed()
        for token in self._tokenizer.encode(text, special=False):
            if not allowed_V[token]:
                return False
            constraint.accept(int(token))
            allowed_V = constraint.allowed()
        return True

    def _matcher(self, schema: dict[str, Any]) -> llguidance.LLMatcher:
        """Raises ValueError."""
        if self._tokens is None:
            self._tokens = llguidance.LLTokenizer(
                self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=self._eos
            )
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            _text(schema), overrides={"whitespace_pattern": WHITESPACE}
        )
        matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher


def _checked(schema: dict[str, Any]) -> str:
    """The schema as text, within the limits. The order of properties counts: it is that of the answer."""
    multiples = []
    for depth, key, value in _walk(schema):
        if depth > SCHEMA_DEPTH:
            raise GrammarError(f"the schema is nested more than {SCHEMA_DEPTH} deep")
        if key == "x-guidance":
            raise GrammarError("x-guidance is not part of JSON Schema")
        if key == "multipleOf" and _is_positive(value):
            multiples.append(value)
    try:
        text = _text(schema)
    except ValueError as error:  # an integer of thousands of digits
        raise GrammarError(str(error)) from None
    if len(text) > SCHEMA_BYTES:
        raise GrammarError(f"the schema is larger than {SCHEMA_BYTES} bytes")
    if _states(multiples) > LARGEST_MULTIPLE:
        raise GrammarError(f"multipleOf: the least common multiple is more than {LARGEST_MULTIPLE} steps")
    return text


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _states(multiples: list[float]) -> int:
    """How many remainders an automaton has to tell apart that checks all of `multiples`."""
    exact = [Fraction(str(multiple)) for multiple in multiples]
    unit = math.lcm(*(multiple.denominator for multiple in exact))
    return math.lcm(*(int(multiple * unit) for multiple in exact))


def _walk(document: dict[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """(depth, key, value) of everything inside; the key of a list's items is empty."""
    stack: list[tuple[int, Any]] = [(1, document)]
    while stack:
        depth, value = stack.pop()
        pairs = value.items() if isinstance(value, dict) else (("", item) for item in value)
        for key, inner in pairs:
            yield depth, key, inner
            if isinstance(inner, dict | list):
                stack.append((depth + 1, inner))
