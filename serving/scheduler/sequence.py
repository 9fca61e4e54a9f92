"""One request on its way through the engine: what it was asked, what it said so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Literal

import numpy as np

from lathe.serving.backend import GenerationRequest, Observer, RequestOutput
from lathe.serving.decoding.detokenizer import TextStream
from lathe.serving.decoding.sampling import Sampler, TokenLogprob, score


class Sequence:
    """Turns logits into chunks. Everything here depends on the request alone, never on its neighbours."""

    def __init__(
        self,
        request: GenerationRequest,
        sink: Callable[[RequestOutput], None],
        piece: Callable[[int], bytes],
        eos: Collection[int],
    ) -> None:
        self.request = request
        self.cancelled = False
        self.done = False
        self.prefilled = 0
        self.cached: int | None = None
        self.next_token = -1
        self._sink = sink
        self._piece = piece
        self._ends = (set() if request.ignore_eos else set(eos)) | request.stop_token_ids
        self._never = set(eos) - self._ends
        self._sampler = Sampler(request.sampling, request.choice, request.prompt)
        self._constraint = request.grammar.begin() if request.grammar else None
        self._text = TextStream(
            request.stop,
            request.verbatim,
            specials=request.specials,
            show_specials=request.show_specials,
            keep_stop=request.keep_stop,
        )
        self._prompt_scores: list[TokenLogprob] = []
        self._generated = 0
        self._unsent: tuple[int, list[TokenLogprob]] = (0, [])
        self._first_at = self._last_at = 0.0
        self._last_chunk: RequestOutput | None = None

    @property
    def prompt_left(self) -> np.ndarray:
        """Prompt tokens that the engine has not seen, int64 [S]."""
        return self.request.prompt[self.prefilled :]

    def take_prompt(self, tokens: np.ndarray, logits: np.ndarray, observer: Observer) -> None:
        """The engine has seen these prompt tokens; `logits` [S or 1, V] follow each, or the last."""
        if self.request.score_prompt:
            self._score_prompt(tokens, logits)
        self.prefilled += len(tokens)
        if len(self.prompt_left):
            return
        if self.request.choice == 0:
            observer.prompt(len(self.request.prompt))
        if self._prompt_scores:
            self._sink(RequestOutput(self.request.index, prompt_scores=tuple(self._prompt_scores)))
        if self.request.max_tokens == 0:
            self._finish("length", observer)
        else:
            self.take(logits[-1], observer)

    def take(self, logits_V: np.ndarray, observer: Observer) -> None:
        """Choose the next token from its logits and tell the sink what became certain."""
        request = self.request
        early = self._generated < request.min_tokens
        token = self._choose(logits_V, self._never | self._ends if early else self._never)
        self._tick(observer)
        self.next_token = token
        count, scores = self._unsent
        if request.logprobs is not None:
            scores.append(score(logits_V, token, request.logprobs))
        self._unsent = (count + 1, scores)
        ended = token in self._ends
        text = "" if ended and not self._kept(token) else self._push(token)
        if ended or self._text.stopped or (self._constraint and self._constraint.complete):
            self._finish("stop", observer, text)
        elif self._generated >= request.max_tokens:
            self._finish("length", observer, text)
        elif text or scores:
            self._sink(self._chunk(text))

    def fail(self, message: str, status: int = 500) -> None:
        """End with an error, unless it had already ended."""
        if not self.done:
            self.done = True
            self._last_chunk = RequestOutput(self.request.index, error=message, status=status)

    def conclude(self) -> None:
        """Tell the end; called once the slot is free again."""
        if self._last_chunk is not None:
            self._sink(self._last_chunk)

    def _choose(self, logits_V: np.ndarray, banned: Collection[int]) -> int:
        if self._constraint is None:
            return self._sampler.sample(logits_V, banned)
        token = self._sampler.sample(logits_V, banned, self._constraint.allowed())
        self._constraint.accept(token)
        return token

    def _kept(self, token: int) -> bool:
        """Whether a token that ends the answer is a part of it."""
        special = not self._bytes(token)
        return self.request.keep_stop and (self.request.show_specials or not special)

    def _push(self, token: int) -> str:
        return self._text.push(self._bytes(token), token, may_stop=self._may_stop)

    def _bytes(self, token: int) -> bytes:
        return self.request.spelled.get(token) or self._piece(token)

    @property
    def _may_stop(self) -> bool:
        """Whether a stop string may end with the newest token: not within the tokens asked for at least."""
        return self._generated > self.request.min_tokens

    def _score_prompt(self, tokens: np.ndarray, logits: np.ndarray) -> None:
        top = self.request.logprobs or 0
        if not self._prompt_scores:
            self._prompt_scores.append(TokenLogprob(int(tokens[0]), None))
        following = self.request.prompt[self.prefilled + 1 : self.prefilled + len(tokens) + 1]
        rows = zip(logits, following, strict=False)
        self._prompt_scores += [score(row, int(token), top) for row, token in rows]

    def _tick(self, observer: Observer) -> None:
        now = time.perf_counter()
        self._generated += 1
        if self._generated == 1:
            self._first_at = now
            observer.first_token(now - self.request.arrived)
        else:
            observer.next_token(now - self._last_at)
        self._last_at = now

    def _chunk(self, text: str, finish: Literal["stop", "length"] | None = None) -> RequestOutput:
        count, scores = self._unsent
        cached, self.cached = self.cached, None
        self._unsent = (0, [])
        return RequestOutput(self.request.index, text, count, tuple(scores), cached=cached, finish=finish)

    def _finish(self, reason: Literal["stop", "length"], observer: Observer, text: str = "") -> None:
        self.done = True
        if not self._text.stopped:
            text += self._text.flush(may_stop=self._may_stop)
        later = self._generated - 1
        observer.finished((self._last_at - self._first_at) / later if later > 0 else None)
        self._last_chunk = self._chunk(text, "stop" if self._text.stopped else reason)
