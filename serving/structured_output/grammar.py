"""Answers that have to match a JSON schema, or that call tools: a grammar masks the tokens.

llguidance does the work. Nothing is precomputed for a schema, so that a step of any grammar costs
microseconds; what a hostile schema could make large is refused before it is compiled or limited inside.

Legend: V vocabulary.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import llguidance
import numpy as np

from lathe.serving.decoding.hidden_tokens import hidden
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.structured_output.json_schema import definitions, each_schema, rewritten, without_idle
from lathe.serving.structured_output.pattern_properties import all_written_out
from lathe.serving.structured_output.schema_errors import NO_WAY_ON, GrammarError, explained
from lathe.serving.structured_output.schema_limits import as_text, checked
from lathe.serving.tools.grammar import Tool, ToolCallSpec, closed, lark

TOOLS_BYTES = 256 * 1024
KEPT = 64
MOST_BLAMED = 64
"""The most parts of a schema that are searched for the one at fault."""
OPTIONS = {"whitespace_pattern": r"[ \n]{0,16}"}
"""White space between the parts of a document; without a limit, a weak model may never stop writing it."""
LIMITS = llguidance.LLParserLimits(
    max_grammar_size=50_000,
    max_lexer_states=10_000,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""Limits of about 20 MB and 10 ms per step; ordinary schemas need a thousandth of that."""


class GrammarMatcher:
    """Matches one sequence. Used from one thread."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def complete(self) -> bool:
        """True once nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> np.ndarray:
        """Returns which tokens may follow, bool [V]; the end tokens may where the document may end.

        Raises:
            GrammarError: no token may follow, or the grammar became too large.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = np.unpackbits(packed, bitorder="little")[: self._vocab_size].astype(bool)
        if not allowed_V.any():
            raise GrammarError(NO_WAY_ON)
        return allowed_V

    def accept(self, token: int) -> None:
        """Advances by a token.

        Raises:
            GrammarError: the grammar became too large.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(explained(self._matcher.get_error(), {}))


class Grammar:
    """A compiled schema or set of rules, shared by all sequences that have to match it.

    Attributes:
        field: the request's field that it comes from.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, field: str) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.field = field

    def begin(self) -> GrammarMatcher:
        """Returns a matcher at the start of an answer."""
        return GrammarMatcher(self._matcher.deep_copy(), self._vocab_size)


class GrammarCompiler:
    """Compiles schemas for one model and keeps the last `KEPT`, in memory. Thread-safe; one at a time."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = sorted(eos)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._known: Vocabulary | None = None

    def compile(self, schema: dict[str, Any]) -> Grammar:
        """Compiles a JSON schema.

        Raises:
            GrammarError: the schema cannot be used.
        """
        text = checked(schema)
        with self._lock:
            return self._kept_or(text, lambda: self._of_schema(schema, OPTIONS, "response_format"))

    def compile_tools(self, spec: ToolCallSpec) -> Grammar:
        """Compiles the grammar of answers that may call tools.

        Raises:
            GrammarError: a schema cannot be used; the message names its tool.
        """
        for tool in spec.tools:
            with _blaming(tool):
                checked(tool.parameters)
        if spec.answer is not None:
            checked(spec.answer)
        with self._lock:
            text = lark(spec, self._vocabulary(), OPTIONS)
            if len(text) > TOOLS_BYTES:
                raise GrammarError(f"the schemas of all tools are larger than {TOOLS_BYTES} bytes")
            return self._kept_or(text, lambda: self._of_spec(spec))

    def _settled_spec(self, spec: ToolCallSpec) -> ToolCallSpec:
        tools = [replace(tool, parameters=self._settled(tool.parameters)) for tool in spec.tools]
        answer = None if spec.answer is None else self._settled(spec.answer)
        return replace(spec, tools=tools, answer=answer)

    def _settled(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Returns an equivalent schema, in a form that leads to no dead end."""
        return all_written_out(rewritten(schema, without_idle), self._can_follow)

    def _of_spec(self, spec: ToolCallSpec) -> Grammar:
        for tool in spec.tools:
            with _blaming(tool):
                options = OPTIONS | {"lenient": not tool.strict}
                self._of_schema(closed(tool.parameters), options, "tools")
        text = lark(self._settled_spec(spec), self._vocabulary(), OPTIONS)
        try:
            grammar = self._compiled(llguidance.LLMatcher.grammar_from_lark(text), "tools")
            grammar.begin().allowed()
        except ValueError as error:
            raise GrammarError(explained(str(error), {})) from None
        return grammar

    def _of_schema(self, schema: dict[str, Any], options: dict[str, Any], field: str) -> Grammar:
        """Compiles a schema and checks that an answer can begin.

        Raises:
            GrammarError: the schema cannot be used.
        """
        self._vocabulary()
        try:
            grammar = self._compiled(_json_grammar(self._settled(schema), options), field)
            self._follows(grammar, '{"')
        except ValueError as error:
            raise GrammarError(self._explained(str(error), schema, options)) from None
        return grammar

    def _explained(self, message: str, schema: dict[str, Any], options: dict[str, Any]) -> str:
        """Returns why a required part is unsatisfiable, in place of the bare fact."""
        inner = list(each_schema(schema))[:MOST_BLAMED] if "required" in message else []
        for pointer, part in reversed(inner[1:]):
            try:
                self._compiled(_json_grammar(definitions(schema) | part, options), "")
            except ValueError as error:
                if "Unsatisfiable" in str(error):
                    return f"{explained(str(error), part)} (in {pointer})"
        return explained(message, schema)

    def _can_follow(self, schema: dict[str, Any], text: str) -> bool:
        try:
            return self._follows(self._compiled(_json_grammar(schema, OPTIONS), ""), text)
        except ValueError:
            return False

    def _follows(self, grammar: Grammar, text: str) -> bool:
        """Returns whether an answer may begin with `text`.

        Raises:
            GrammarError: nothing may follow it.
        """
        matcher = grammar.begin()
        allowed_V = matcher.allowed()
        for token in self._tokenizer.encode(text, special=False):
            if not allowed_V[token]:
                return False
            matcher.accept(int(token))
            allowed_V = matcher.allowed()
        return True

    def _kept_or(self, text: str, make: Callable[[], Grammar]) -> Grammar:
        grammar = self._kept.pop(text, None) or make()
        self._kept[text] = grammar
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return grammar

    def _compiled(self, grammar: str, field: str) -> Grammar:
        """Compiles a grammar.

        Raises:
            ValueError: llguidance refuses it.
        """
        matcher = llguidance.LLMatcher(self._vocabulary().tokens, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return Grammar(matcher, self._vocab_size, field)

    def _vocabulary(self) -> Vocabulary:
        if not self._eos:
            raise GrammarError("this model has no end token")
        if self._known is None:
            self._known = Vocabulary(self._tokenizer, self._vocab_size, self._eos)
        return self._known


class Vocabulary:
    """llguidance's view of a tokenizer, which takes some added tokens for special that are not."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        """Reads the tokenizer.

        Raises:
            GrammarError: llguidance cannot use it.
        """
        self._tokenizer = tokenizer
        document = tokenizer.to_json()
        try:
            self.tokens = llguidance.LLTokenizer(document, n_vocab=vocab_size, eos_token=list(eos))
            known = {token for token in range(vocab_size) if self.tokens.is_special_token(token)}
            document = hidden(document, known)  # else text that spells a special token has to be that token
            self.tokens = llguidance.LLTokenizer(document, n_vocab=vocab_size, eos_token=list(eos))
        except ValueError as error:
            raise GrammarError(explained(str(error), {})) from None
        self.special_tokens = sorted(
            token for token in known if token not in eos and tokenizer.display_bytes(token)
        )

    def special(self, text: str) -> int | None:
        """Returns the special token that `text` is, or None where it is written with ordinary ones."""
        token = self._tokenizer.token(text)
        return token if token is not None and self.tokens.is_special_token(token) else None


@contextmanager
def _blaming(tool: Tool) -> Iterator[None]:
    """Adds the tool's name to GrammarErrors."""
    try:
        yield
    except GrammarError as error:
        raise GrammarError(f"the parameters of {tool.name!r} cannot be enforced: {error}") from None


def _json_grammar(schema: dict[str, Any], options: dict[str, Any]) -> str:
    return str(llguidance.LLMatcher.grammar_from_json_schema(as_text(schema), overrides=cast(Any, options)))
