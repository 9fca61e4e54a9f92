"""A grammar for the answer of a reasoning model: the reasoning is free, the answer is constrained.

Legend: V vocabulary.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection

import numpy as np

from lathe.serving.decoding.reasoning import Splitter
from lathe.serving.structured_output.grammar import Grammar, GrammarMatcher
from lathe.serving.structured_output.schema_errors import GrammarError


class DelayedMatcher(GrammarMatcher):
    """Matches one sequence; its reasoning may contain anything but an end token. Used from one thread."""

    def __init__(
        self,
        answer: GrammarMatcher,
        splitter: Splitter,
        token_bytes: Callable[[int], bytes],
        opening: int | None,
        free_V: np.ndarray,
    ) -> None:
        """Creates a matcher at the start of an answer.

        Args:
            answer: matches the answer.
            splitter: separates reasoning from answer.
            token_bytes: returns the bytes of a token.
            opening: the token that begins the reasoning, where the prompt leaves it to the model.
            free_V: bool; the tokens that are allowed while reasoning.
        """
        self._answer = answer
        self._splitter = splitter
        self._token_bytes = token_bytes
        self._opening = opening
        self._free_V = free_V
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._thinking = not splitter.answering

    @property
    def complete(self) -> bool:
        return not self._thinking and self._answer.complete

    def allowed(self) -> np.ndarray:
        if not self._thinking:
            return self._answer.allowed()
        if self._opening is None:
            return self._free_V
        allowed_V = self._answer.allowed().copy()
        allowed_V[self._opening] = True
        return allowed_V

    def accept(self, token: int) -> None:
        if self._opening is not None:
            self._thinking, self._opening = token == self._opening, None
        if not self._thinking:
            self._answer.accept(token)
            return
        pieces = self._splitter.push(self._utf8.decode(self._token_bytes(token)))
        self._thinking = not self._splitter.answering
        if any(kind == "content" for kind, _ in pieces):
            raise GrammarError("the mark that ends the thinking came in one token with other text")


class DelayedGrammar(Grammar):
    """A grammar shared by all sequences that continue one prompt."""

    def __init__(
        self,
        answer: Grammar,
        begin: Callable[[], Splitter],
        token_bytes: Callable[[int], bytes],
        opening: int | None,
        ends: Collection[int],
        vocab_size: int,
    ) -> None:
        self._answer = answer
        self.field = answer.field
        self._begin = begin
        self._token_bytes = token_bytes
        self._opening = opening
        self._free_V = np.ones(vocab_size, dtype=bool)
        self._free_V[list(ends)] = False

    def begin(self) -> GrammarMatcher:
        return DelayedMatcher(
            self._answer.begin(), self._begin(), self._token_bytes, self._opening, self._free_V
        )
