"""Answers that have to match a JSON schema, or that call tools: what is asked becomes a grammar, a grammar
masks tokens.

llguidance does the work. Nothing is precomputed for a schema, so that a step of any grammar costs
microseconds; what a hostile schema could make large is refused before it is compiled or limited inside.

Legend: V vocabulary.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, cast

import llguidance
import numpy as np

from serving.tokenizer import Tokenizer
from serving.tools.grammar import Rules, Tool, closed, lark

SCHEMA_BYTES = 64 * 1024
TOOLS_BYTES = 256 * 1024
SCHEMA_DEPTH = 60
LARGEST_MULTIPLE = 10_000
"""Of the least common multiple of all `multipleOf`: the automaton has as many states."""
KEPT = 64
OPTIONS = {"whitespace_pattern": r"[ \n]{0,16}"}
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
            raise GrammarError("the schema leaves no way to go on")
        return allowed_V

    def accept(self, token: int) -> None:
        """`token` was chosen. Raises GrammarError."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(_first_line(self._matcher.get_error()))


class Grammar:
    """A compiled schema or set of rules, shared by all sequences that have to match it. `field`: of requests,
    that it comes from."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, field: str) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.field = field

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
        self._known: Vocabulary | None = None

    def compile(self, schema: dict[str, Any]) -> Grammar:
        """Raises GrammarError."""
        text = _checked(schema)
        with self._lock:
            return self._kept_or(text, lambda: self._of_schema(text, OPTIONS, "response_format"))

    def compile_tools(self, rules: Rules) -> Grammar:
        """Raises GrammarError, which names the tool whose schema cannot be used."""
        for tool in rules.tools:
            with _blaming(tool):
                _checked(tool.parameters)
        if rules.answer is not None:
            _checked(rules.answer)
        with self._lock:
            text = lark(rules, self._vocabulary(), OPTIONS)
            if len(text) > TOOLS_BYTES:
                raise GrammarError(f"the schemas of all tools are larger than {TOOLS_BYTES} bytes")
            return self._kept_or(text, lambda: self._of_rules(rules, text))

    def _of_rules(self, rules: Rules, text: str) -> Grammar:
        for tool in rules.tools:
            with _blaming(tool):
                options = OPTIONS | {"lenient": not tool.strict}
                self._of_schema(json.dumps(closed(tool.parameters)), options, "tools")
        return self._compiled(lambda: llguidance.LLMatcher.grammar_from_lark(text), "tools")

    def _of_schema(self, text: str, options: dict[str, Any], field: str) -> Grammar:
        return self._compiled(
            lambda: llguidance.LLMatcher.grammar_from_json_schema(text, overrides=cast(Any, options)), field
        )

    def _kept_or(self, text: str, make: Callable[[], Grammar]) -> Grammar:
        grammar = self._kept.pop(text, None) or make()
        self._kept[text] = grammar
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return grammar

    def _compiled(self, grammar: Callable[[], str], field: str) -> Grammar:
        tokens = self._vocabulary().tokens
        try:
            matcher = llguidance.LLMatcher(tokens, grammar(), log_level=0, limits=LIMITS)
        except ValueError as error:
            raise GrammarError(_first_line(str(error))) from None
        if matcher.is_error():
            raise GrammarError(_first_line(matcher.get_error()))
        return Grammar(matcher, self._vocab_size, field)

    def _vocabulary(self) -> Vocabulary:
        if not self._eos:
            raise GrammarError("this model has no end token")
        if self._known is None:
            self._known = Vocabulary(self._tokenizer, self._vocab_size, self._eos)
        return self._known


class Vocabulary:
    """llguidance's view of a tokenizer. It takes some added tokens for special that are not."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        """Raises GrammarError."""
        self._tokenizer = tokenizer
        try:
            self.tokens = llguidance.LLTokenizer(tokenizer.to_json(), n_vocab=vocab_size, eos_token=list(eos))
        except ValueError as error:
            raise GrammarError(_first_line(str(error))) from None
        known = (token for token in range(vocab_size) if self.tokens.is_special_token(token))
        self.specials = [token for token in known if token not in eos and tokenizer.label(token)]

    def special(self, text: str) -> int | None:
        """The special token that `text` is; None where it is written with ordinary ones."""
        token = self._tokenizer.token(text)
        return token if token is not None and self.tokens.is_special_token(token) else None


@contextmanager
def _blaming(tool: Tool) -> Iterator[None]:
    """Raises GrammarErrors with the tool's name."""
    try:
        yield
    except GrammarError as error:
        raise GrammarError(f"the parameters of {tool.name!r} cannot be enforced: {error}") from None


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
        text = json.dumps(schema, separators=(",", ":"))
    except ValueError as error:  # an integer of thousands of digits
        raise GrammarError(str(error)) from None
    if len(text) > SCHEMA_BYTES:
        raise GrammarError(f"the schema is larger than {SCHEMA_BYTES} bytes")
    if _states(multiples) > LARGEST_MULTIPLE:
        raise GrammarError(f"multipleOf: the least common multiple is more than {LARGEST_MULTIPLE} steps")
    return text


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


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
