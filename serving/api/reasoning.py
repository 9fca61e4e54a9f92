"""Reasoning models: separates the reasoning from the answer, by the marks of the chat template."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np

from lathe.serving.backend import RequestOutput
from lathe.serving.decoding.reasoning import Kind, Marked, Splitter, reasoning_format
from lathe.serving.decoding.sampling import TokenLogprob
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.structured_output.delayed import DelayedGrammar
from lathe.serving.structured_output.grammar import Grammar

Beginning = Callable[[], Splitter]
"""Makes the splitter of an answer; several answers may begin alike."""
PROMPT_END = 32
"""The number of tokens at the end of a prompt that are searched for its last mark."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of one answer. Log-probabilities of reasoning are dropped."""

    kind: Kind
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class AnswerSplitter:
    """Splits one answer into parts as it arrives.

    Attributes:
        splits: whether the model's template marks reasoning.
        reasoning_tokens: tokens so far that were reasoning or its marks.
    """

    def __init__(self, beginning: Beginning | None) -> None:
        self._splitter = beginning() if beginning else None
        self._undecided: tuple[int, tuple[TokenLogprob, ...]] = (0, ())
        self._spoken = False
        self.splits = beginning is not None
        self.reasoning_tokens = 0

    def read(self, output: RequestOutput) -> list[Part]:
        """Returns the parts that became certain; none while the answer may still begin with a mark."""
        if self._splitter is None:
            return [Part("content", output.text, output.logprobs)]
        pieces = self._splitter.push(output.text) + (self._splitter.flush() if output.finished else [])
        tokens, logprobs = self._undecided[0] + output.num_tokens, self._undecided[1] + output.logprobs
        if self._splitter.undecided:
            self._undecided = (tokens, logprobs)
            return []
        self._undecided = (0, ())
        self._spoken = (
            self._spoken or not self._splitter.thought or any(kind == "content" for kind, _ in pieces)
        )
        parts = [Part("reasoning", text) for kind, text in pieces if kind == "reasoning"]
        if self._spoken:
            said = "".join(text for kind, text in pieces if kind == "content")
            return [*parts, Part("content", said, logprobs)] if said or logprobs else parts
        self.reasoning_tokens += tokens
        return parts


class ServedReasoning:
    """How the served model reasons, if it does.

    Attributes:
        visible_tokens: bytes of the special tokens that have to be part of the text, so that the marks can be
            read.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: Collection[int]) -> None:
        self._tokenizer, self._vocab_size, self._ends = tokenizer, vocab_size, ends
        self._format = reasoning_format(tokenizer.chat_template)
        marks = {mark: tokenizer.token(mark) for mark in (self._format.marks if self._format else ())}
        self._marks = {mark: token for mark, token in marks.items() if token is not None}
        self.visible_tokens = {token: mark.encode() for mark, token in self._marks.items()}

    def beginning(self, prompt: np.ndarray, said: str | None = None) -> Beginning | None:
        """Returns what makes the splitters of answers to a prompt, or None where there are no marks.

        Args:
            prompt: the tokens of the prompt.
            said: the beginning of the answer, if the prompt ends with it.
        """
        if self._format is None:
            return None
        if said is not None:
            return partial(self._format.resume, said)
        end = self._tokenizer.decode(prompt[-PROMPT_END:].tolist(), special=True)
        return partial(self._format.begin, end)

    def before(self, answer: Grammar | None, beginning: Beginning | None) -> Grammar | None:
        """Returns the grammar of an answer that may begin with reasoning."""
        splitter = beginning() if beginning else None
        if answer is None or beginning is None or splitter is None or splitter.answering:
            return answer
        opening = None
        if isinstance(self._format, Marked) and not splitter.thought:
            opening = self._marks.get(self._format.opening)
            if opening is None:
                return answer
        return DelayedGrammar(answer, beginning, self._token_bytes, opening, self._ends, self._vocab_size)

    def _token_bytes(self, token: int) -> bytes:
        return self.visible_tokens.get(token) or self._tokenizer.token_bytes(token)
