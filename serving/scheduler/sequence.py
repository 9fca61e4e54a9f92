"""One request on its way through the engine: its status, its tokens, and the outputs it emits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from enum import Enum, auto

import numpy as np

from lathe.serving.backend import FinishReason, GenerationRequest, Observer, OutputCallback, RequestOutput
from lathe.serving.decoding.detokenizer import Detokenizer
from lathe.serving.decoding.sampling import Sampler, TokenLogprob, token_logprob


class SequenceStatus(Enum):
    """Where a sequence is on its way; only the scheduler changes it."""

    WAITING = auto()
    PREFILLING = auto()
    DECODING = auto()
    FINISHED = auto()


class Sequence:
    """Turns logits into outputs. Everything here depends on the request alone, never on its neighbours.

    Attributes:
        status: changed by the scheduler only.
        num_computed: prompt tokens whose keys and values the engine has.
        num_cached: of these, the ones that came from the prefix cache; None once told, or without a cache.
        last_token: the newest token, which the engine has not seen yet.
    """

    def __init__(
        self,
        request: GenerationRequest,
        emit: OutputCallback,
        token_bytes: Callable[[int], bytes],
        eos: Collection[int],
        observer: Observer,
    ) -> None:
        self.request = request
        self.status = SequenceStatus.WAITING
        self.num_computed = 0
        self.num_cached: int | None = None
        self.last_token = -1
        self._emit = emit
        self._token_bytes = token_bytes
        self._observer = observer
        self._stop_tokens = (set() if request.ignore_eos else set(eos)) | request.stop_token_ids
        self._banned = set(eos) - self._stop_tokens
        self._sampler = Sampler(request.sampling, request.choice, request.prompt)
        self._matcher = request.grammar.begin() if request.grammar else None
        self._special_bytes = request.visible_tokens
        self._detokenizer = Detokenizer(
            request.stop,
            request.no_stops_after,
            special_tokens=request.special_tokens,
            show_specials=request.show_specials,
            keep_stop=request.keep_stop,
        )
        self._prompt_logprobs: list[TokenLogprob] = []
        self._num_generated = 0
        self._num_unsent = 0
        self._unsent_logprobs: list[TokenLogprob] = []
        self._first_at = self._last_at = 0.0

    @property
    def remaining_prompt(self) -> np.ndarray:
        """Prompt tokens that the engine has not seen, int64 [S]."""
        return self.request.prompt[self.num_computed :]

    @property
    def most_tokens(self) -> int:
        """The most tokens that the engine will hold of this sequence."""
        return len(self.request.prompt) + self.request.max_tokens

    def append_prompt(self, tokens: np.ndarray, logits: np.ndarray) -> RequestOutput | None:
        """Records that the engine has seen some prompt tokens; after the last, chooses the first token.

        Args:
            tokens: the prompt tokens, [S].
            logits: those after each of the tokens, [S, V], or after the last one, [1, V].

        Returns:
            The final output, if the sequence ends here.
        """
        if self.request.prompt_logprobs:
            self._append_prompt_logprobs(tokens, logits)
        self.num_computed += len(tokens)
        if len(self.remaining_prompt):
            return None
        if self.request.choice == 0:
            self._observer.prompt(len(self.request.prompt))
        if self._prompt_logprobs:
            self._emit(RequestOutput(self.request.index, prompt_logprobs=tuple(self._prompt_logprobs)))
        if self.request.max_tokens == 0:
            return self._final_output("length")
        return self.append_token(logits[-1])

    def append_token(self, logits_V: np.ndarray) -> RequestOutput | None:
        """Chooses the next token from its logits and emits the text that became certain.

        Returns:
            The final output, if the sequence ends with this token.
        """
        request = self.request
        early = self._num_generated < request.min_tokens
        token = self._sample(logits_V, self._banned | self._stop_tokens if early else self._banned)
        self._count_token()
        self.last_token = token
        if request.logprobs is not None:
            self._unsent_logprobs.append(token_logprob(logits_V, token, request.logprobs))
        stopped = token in self._stop_tokens
        text = ""
        if not stopped or self._is_shown(token):
            text = self._detokenizer.push(self._bytes_of(token), token, may_stop=self._may_stop)
        if stopped or self._detokenizer.stopped or (self._matcher and self._matcher.complete):
            return self._final_output("stop", text)
        if self._num_generated >= request.max_tokens:
            return self._final_output("length", text)
        if text or self._unsent_logprobs:
            self._emit(self._output(text))
        return None

    def emit_final(self, output: RequestOutput) -> None:
        """Emits the final output; called once the slot is free again."""
        self._emit(output)

    def _sample(self, logits_V: np.ndarray, banned: Collection[int]) -> int:
        if self._matcher is None:
            return self._sampler.sample(logits_V, banned)
        token = self._sampler.sample(logits_V, banned, self._matcher.allowed())
        self._matcher.accept(token)
        return token

    def _is_shown(self, token: int) -> bool:
        """Returns whether a token that ends the answer is a part of it."""
        special = not self._bytes_of(token)
        return self.request.keep_stop and (self.request.show_specials or not special)

    def _bytes_of(self, token: int) -> bytes:
        return self._special_bytes.get(token) or self._token_bytes(token)

    @property
    def _may_stop(self) -> bool:
        """Returns whether a stop string may end with the newest token: not within the first `min_tokens`."""
        return self._num_generated > self.request.min_tokens

    def _append_prompt_logprobs(self, tokens: np.ndarray, logits: np.ndarray) -> None:
        top = self.request.logprobs or 0
        if not self._prompt_logprobs:
            self._prompt_logprobs.append(TokenLogprob(int(tokens[0]), None))
        following = self.request.prompt[self.num_computed + 1 : self.num_computed + len(tokens) + 1]
        rows = zip(logits, following, strict=False)
        self._prompt_logprobs += [token_logprob(row, int(token), top) for row, token in rows]

    def _count_token(self) -> None:
        now = time.perf_counter()
        self._num_generated += 1
        self._num_unsent += 1
        if self._num_generated == 1:
            self._first_at = now
            self._observer.first_token(now - self.request.arrived)
        else:
            self._observer.next_token(now - self._last_at)
        self._last_at = now

    def _output(self, text: str, finish_reason: FinishReason | None = None) -> RequestOutput:
        output = RequestOutput(
            self.request.index,
            text,
            self._num_unsent,
            tuple(self._unsent_logprobs),
            num_cached_tokens=self.num_cached,
            finish_reason=finish_reason,
        )
        self._num_unsent, self._unsent_logprobs, self.num_cached = 0, [], None
        return output

    def _final_output(self, reason: FinishReason, text: str = "") -> RequestOutput:
        if not self._detokenizer.stopped:
            text += self._detokenizer.flush(may_stop=self._may_stop)
        later = self._num_generated - 1
        self._observer.finished((self._last_at - self._first_at) / later if later > 0 else None)
        return self._output(text, "stop" if self._detokenizer.stopped else reason)
