"""What the API asks of an engine, and what an engine may be built from.

A backend takes whole requests. An engine that schedules by itself implements `ServingBackend`; one that only
computes implements `SlotEngine`, and `lathe.serving.scheduler.Scheduler` makes a backend of it.

Legend: S tokens of one slot, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from lathe.serving.decoding.sampling import SamplingParams, TokenLogprob
from lathe.serving.structured_output.grammar import Grammar

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt: token ids, int64 [S].
        sampling: how tokens are chosen.
        max_tokens: the most tokens to generate.
        arrived: the `time.perf_counter()` of its arrival at the server.
        index: its number among the sequences of one call.
        choice: its number among the answers to one prompt.
        min_tokens: the fewest tokens to generate.
        stop: strings that end the answer.
        stop_token_ids: tokens that end the answer, besides the end tokens.
        special_tokens: texts of the special tokens that are part of the answer (`show_specials`) or that a
            stop string contains.
        show_specials: whether special tokens are part of the answer.
        keep_stop: whether the stop string that ends the answer is a part of it.
        ignore_eos: whether the end tokens are ordinary tokens.
        logprobs: how many of the likeliest tokens to report with every token; None: no log-probabilities.
        prompt_logprobs: whether to report the log-probabilities of the prompt's tokens.
        grammar: what the answer has to match.
        cache_salt: cached prefixes are shared by requests with an equal salt only.
        visible_tokens: bytes of the special tokens that are part of the text in any case.
        no_stops_after: strings from which on there are no stop strings.
        subnet: which subnet of a family computes it; empty where one model is served.
    """

    prompt: np.ndarray
    sampling: SamplingParams
    max_tokens: int
    arrived: float
    index: int = 0
    choice: int = 0
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    special_tokens: Mapping[int, str] = field(default_factory=dict)
    show_specials: bool = False
    keep_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    grammar: Grammar | None = None
    cache_salt: str = ""
    visible_tokens: Mapping[int, bytes] = field(default_factory=dict)
    no_stops_after: tuple[str, ...] = ()
    subnet: str = ""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The text and tokens of one sequence that became certain since its last output.

    Attributes:
        index: the sequence's number in its call.
        text: more of the answer.
        num_tokens: how many generated tokens this output stands for.
        logprobs: the log-probabilities of these tokens, if requested.
        prompt_logprobs: those of the prompt's tokens; they come once, before any text.
        num_cached_tokens: how many tokens of the prompt came from the prefix cache; reported once, and only
            where there is such a cache.
        finish_reason: why the sequence ended; only in its final output.
        error: why the sequence failed; only in its final output.
        status: the HTTP status of the error.
    """

    index: int
    text: str = ""
    num_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    num_cached_tokens: int | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    status: int = 500

    @property
    def finished(self) -> bool:
        """True if this is the final output of its sequence."""
        return self.finish_reason is not None or self.error is not None


class QueueFullError(Exception):
    """Too many sequences are unfinished; a later attempt may succeed."""


class DrainingError(Exception):
    """The server is shutting down and accepts no new requests."""


class RequestHandle(Protocol):
    """Requests that were added together."""

    def cancel(self) -> None:
        """Cancels the unfinished requests and frees their slots at once; has no effect on finished ones."""


OutputCallback = Callable[[RequestOutput], None]
"""Receives the outputs of one call's sequences."""
OutputBatch = Sequence[tuple[OutputCallback, RequestOutput]]
"""The outputs of one step, each with the callback that receives it."""
Dispatch = Callable[[OutputBatch], None]
"""Runs the callbacks of a batch, here or on another thread; called on the engine's thread, once per step."""


def run_callbacks(batch: OutputBatch) -> None:
    """Calls every callback of a batch with its output."""
    for callback, output in batch:
        callback(output)


class ServingBackend(Protocol):
    """Generates text for many requests at a time. All methods may be called from any thread.

    Attributes:
        capacity: the most unfinished sequences, waiting ones included.
        max_batch: the most sequences that are computed together.
        max_length: the most tokens of a sequence, its prompt included.
        vocab_size: the number of tokens in the vocabulary.
        weight_bytes: the size of the weights.
        kv_cache_bytes: the most memory that the tokens of running sequences may take. An engine that takes
            memory with its tokens takes less of it most of the time, and cached prefixes take more beside it.
        kv_bytes_per_token: the size of one token in the KV cache.
        eos: the tokens that end an answer.
        prompt_engine: what reads prompts, by name; empty: what decodes.
    """

    capacity: int
    max_batch: int
    max_length: int
    vocab_size: int
    weight_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    eos: Collection[int]
    prompt_engine: str

    def add_requests(
        self,
        requests: Sequence[GenerationRequest],
        callback: OutputCallback,
        dispatch: Dispatch = run_callbacks,
    ) -> RequestHandle:
        """Accepts all requests of a call, or none.

        Args:
            requests: the sequences to generate.
            callback: receives their outputs.
            dispatch: runs the callbacks. It is called at most once per step of the engine, with the outputs
                of all calls whose `dispatch` is equal, and must return soon.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new requests are accepted.
        """

    def check_capacity(self, count: int) -> None:
        """Raises what `add_requests` would raise now for `count` requests.

        Raises:
            QueueFullError: too many sequences are unfinished.
            DrainingError: no new requests are accepted.
        """

    def warm_up(self) -> None:
        """Generates a token, then starts to accept requests. Errors of the engine are passed on."""

    def drain(self, timeout: float) -> bool:
        """Refuses new requests and waits up to `timeout` seconds for the others.

        Returns:
            Whether all of them have finished.
        """

    def close(self) -> None:
        """Finishes all sequences with an error and stops the threads."""

    @property
    def healthy(self) -> bool:
        """True while the engine works."""

    @property
    def num_running(self) -> int:
        """The number of sequences that are being computed."""

    @property
    def num_waiting(self) -> int:
        """The number of sequences that were accepted and are not being computed yet."""

    @property
    def waiting_since(self) -> float | None:
        """The `time.perf_counter()` at which the sequence arrived that begins next; None where none waits."""

    @property
    def kv_cache_usage(self) -> float:
        """The share of `kv_cache_bytes` that the tokens of running sequences take, 0 to 1.

        Tokens of a cached prefix that sequences share are not counted.
        """

    @property
    def kv_reserved_bytes(self) -> int:
        """The part of `kv_cache_bytes` that the running sequences may come to take."""

    @property
    def kv_resident_bytes(self) -> int:
        """The memory that keys and values take now, cached prefixes included."""

    @property
    def kv_prefix_bytes(self) -> int:
        """The memory of cached prefixes that lies in a file in memory, which slots map."""


class SlotEngine(Protocol):
    """Computes logits for sequences that live in numbered slots. Used from one thread only.

    Attributes:
        vocab_size: the number of tokens in the vocabulary.
        max_batch: the number of slots.
        max_length: the most tokens of a slot.
        weight_bytes: the size of the weights.
        kv_cache_bytes: the size of all slots when they are full.
        kv_bytes_per_token: the size of one token in a slot.
        lengths: the number of tokens now in each slot, [max_batch].
    """

    vocab_size: int
    max_batch: int
    max_length: int
    weight_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    lengths: np.ndarray

    def prefill(self, slot: int, tokens: np.ndarray, logits: Literal["last", "all"] = "last") -> np.ndarray:
        """Appends tokens to a slot; returns the last logits, float32 [1, V], or all, [S, V]."""

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Appends one token to each of the slots 0..n-1; returns float32 [n, V]."""

    def move(self, source: int, target: int) -> None:
        """Copies the cache and the length of a slot to another."""

    def reset(self, slot: int) -> None:
        """Empties a slot."""


class Observer(Protocol):
    """Is told about every sequence as it passes through an engine. All times are in seconds."""

    def admitted(self, queued: float) -> None:
        """A sequence leaves the queue, `queued` seconds after its arrival."""

    def prompt(self, tokens: int) -> None:
        """A prompt of so many tokens has been prefilled."""

    def prefix(self, asked: int, found: int) -> None:
        """A prompt of `asked` tokens is about to be prefilled; `found` of them are in the prefix cache."""

    def first_token(self, since_arrival: float) -> None:
        """The first token of an answer was generated."""

    def next_token(self, since_last: float) -> None:
        """One more token was generated."""

    def finished(self, per_token: float | None) -> None:
        """A sequence ended. `per_token`: mean time per token after the first; None with fewer than two."""
