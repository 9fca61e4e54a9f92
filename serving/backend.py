"""What the API asks of an engine, and what an engine may be built from.

A backend takes whole requests. An engine that schedules by itself implements `Backend`; one that only
computes implements `SlotEngine` and is put behind `lathe.serving.scheduler.Scheduler`.

Legend: S tokens of one slot, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from lathe.serving.decoding.sampling import SamplingParams, TokenLogprob
from lathe.serving.structured_output.grammar import Grammar


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate; `choice` counts the answers to one prompt, `index` those of one call.

    `logprobs` is how many likeliest tokens to report with every token (None: no scores at all);
    `arrived` is the `time.perf_counter()` of its arrival at the server; the answer has to match `grammar`;
    what was kept of earlier prompts is used where `cache_salt` is the same; `spelled` are special tokens that
    are part of the text, and what they add to it; from one of `verbatim` on, nothing is a stop string.
    `specials`: other special tokens, and their texts, that are part of the answer (`show_specials`) or that a
    stop string spells; `keep_stop`: the stop string that ends the answer is a part of it.
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
    specials: Mapping[int, str] = field(default_factory=dict)
    show_specials: bool = False
    keep_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    score_prompt: bool = False
    grammar: Grammar | None = None
    cache_salt: str = ""
    spelled: Mapping[int, bytes] = field(default_factory=dict)
    verbatim: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """News about one sequence. The last one carries `finish` or `error`, with the HTTP status of its kind.

    `tokens` counts the generated tokens it stands for. `prompt_scores` come once, before any text. `cached`,
    told once where prompts are kept: how many tokens of the prompt were not read again.
    """

    index: int
    text: str = ""
    tokens: int = 0
    scores: tuple[TokenLogprob, ...] = ()
    prompt_scores: tuple[TokenLogprob, ...] = ()
    cached: int | None = None
    finish: Literal["stop", "length"] | None = None
    error: str | None = None
    status: int = 500

    @property
    def last(self) -> bool:
        """Whether nothing more comes of its sequence."""
        return self.finish is not None or self.error is not None


class QueueFullError(Exception):
    """No room for the request now; later there may be."""


class DrainingError(Exception):
    """The server is going away and takes nothing new."""


class Ticket(Protocol):
    """What has been submitted together."""

    def cancel(self) -> None:
        """Give up what is unfinished; its slots are free at once. Harmless when all is done."""


Sink = Callable[[RequestOutput], None]
OutputBatch = Sequence[tuple[Sink, RequestOutput]]


def deliver(mail: OutputBatch) -> None:
    """Give every chunk to its sink."""
    for sink, chunk in mail:
        sink(chunk)


class Backend(Protocol):
    """Generates text for many requests at a time. All methods may be called from any thread.

    Attributes:
        capacity: sequences that it takes at a time, waiting ones too.
        max_length: tokens of one, its prompt included.
        vocab_size: tokens there are.
        weight_bytes: of the weights.
        kv_cache_bytes: set aside for the KV cache.
        kv_bytes_per_token: that a token takes there.
        eos: tokens that end an answer.
    """

    capacity: int
    max_length: int
    vocab_size: int
    weight_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    eos: Collection[int]

    def submit(
        self,
        requests: Sequence[GenerationRequest],
        sink: Sink,
        carry: Callable[[OutputBatch], None] = deliver,
    ) -> Ticket:
        """Accept all or none. What a step of the engine gives to all calls with an equal `carry` is handed to
        it at once, on the engine's thread; it sees to the delivery and must return soon.

        Raises:
            NoRoomError: there is no room for all of them.
            DrainingError: nothing new is taken.
        """

    def check_room(self, count: int) -> None:
        """Raise what `submit` would raise now for `count` requests."""

    def warm_up(self) -> None:
        """Generate a token for real, then start accepting. Raises what the engine raises."""

    def drain(self, timeout: float) -> bool:
        """Refuse new requests and wait up to `timeout` seconds for the others; whether all ended."""

    def close(self) -> None:
        """End what is left with an error, stop the threads."""

    @property
    def healthy(self) -> bool:
        """Whether the engine still answers."""

    @property
    def running(self) -> int:
        """Sequences that are computed."""

    @property
    def waiting(self) -> int:
        """Sequences that were accepted and are not computed yet."""

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache's tokens in use, 0 to 1."""


class SlotEngine(Protocol):
    """Computes logits for sequences that live in numbered slots. Used from one thread only.

    Attributes:
        vocab_size: tokens there are.
        max_batch: slots.
        max_length: tokens that each holds.
        weight_bytes: of the weights.
        kv_cache_bytes: set aside for all slots.
        kv_bytes_per_token: that a token takes in one.
        lengths: [max_batch] tokens in each now.
    """

    vocab_size: int
    max_batch: int
    max_length: int
    weight_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    lengths: np.ndarray

    def prefill(self, slot: int, tokens: np.ndarray, logits: Literal["last", "all"] = "last") -> np.ndarray:
        """Append tokens to a slot; float32 [1, V] or [S, V]."""

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """One more token for each of the slots 0..n-1; float32 [n, V]."""

    def move(self, source: int, target: int) -> None:
        """Copy a slot's cache and length."""

    def reset(self, slot: int) -> None:
        """Empty a slot."""


class Observer(Protocol):
    """Told about every sequence as it passes through an engine. All times in seconds."""

    def admitted(self, queued: float) -> None:
        """Its turn has come, so long after it arrived."""

    def prompt(self, tokens: int) -> None:
        """So many tokens of its prompt were read."""

    def prefix(self, asked: int, found: int) -> None:
        """Tokens of a prompt that is about to be read, and those of them that need not be."""

    def first_token(self, since_arrival: float) -> None:
        """The first token of its answer is there."""

    def next_token(self, since_last: float) -> None:
        """One more token is there."""

    def finished(self, per_token: float | None) -> None:
        """It has ended. `per_token`: mean time per output token after the first; None with fewer than two."""
