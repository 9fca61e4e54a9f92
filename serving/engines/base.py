"""What the API asks of an engine, what an engine may be built from, and the registry of engines.

A backend takes whole requests. An engine that schedules by itself implements `Backend`; one that only
computes implements `SlotEngine` and is put behind `serving.scheduler.Scheduler`.

An engine is one package `serving/engines/<name>` whose module `engine` registers under <name> how a model is
served with it: by our server (`serving.local.serve_locally`, which needs no more than a `Backend`), or by one
that the engine brings along.

Legend: S tokens of one slot, V vocabulary.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from compressor.errors import UserError
from serving.api.cors import check_origins
from serving.grammar import Grammar
from serving.sampling import Sampling, TokenScore


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate; `choice` counts the answers to one prompt, `index` those of one call.

    `logprobs` is how many likeliest tokens to report with every token (None: no scores at all);
    `arrived` is the `time.perf_counter()` of its arrival at the server; the answer has to match `grammar`;
    what was kept of earlier prompts is used where `cache_salt` is the same.
    """

    prompt: np.ndarray
    sampling: Sampling
    max_tokens: int
    arrived: float
    index: int = 0
    choice: int = 0
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    score_prompt: bool = False
    grammar: Grammar | None = None
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """News about one sequence. The last one carries `finish` or `error`, with the HTTP status of its kind.

    `tokens` counts the generated tokens it stands for. `prompt_scores` come once, before any text.
    """

    index: int
    text: str = ""
    tokens: int = 0
    scores: tuple[TokenScore, ...] = ()
    prompt_scores: tuple[TokenScore, ...] = ()
    finish: Literal["stop", "length"] | None = None
    error: str | None = None
    status: int = 500

    @property
    def last(self) -> bool:
        return self.finish is not None or self.error is not None


class NoRoomError(Exception):
    """No room for the request now; later there may be."""


class DrainingError(Exception):
    """The server is going away and takes nothing new."""


class Ticket(Protocol):
    def cancel(self) -> None:
        """Give up what is unfinished; its slots are free at once. Harmless when all is done."""


Sink = Callable[[Chunk], None]
Mail = Sequence[tuple[Sink, Chunk]]


def deliver(mail: Mail) -> None:
    """Give every chunk to its sink."""
    for sink, chunk in mail:
        sink(chunk)


class Backend(Protocol):
    """Generates text for many requests at a time. All methods may be called from any thread."""

    capacity: int
    max_length: int
    vocab_size: int
    weight_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    eos: Collection[int]

    def submit(
        self, requests: Sequence[GenerationRequest], sink: Sink, carry: Callable[[Mail], None] = deliver
    ) -> Ticket:
        """Accept all or none. What a step of the engine gives to all calls with an equal `carry` is handed to
        it at once, on the engine's thread; it sees to the delivery and must return soon.

        Raises NoRoomError or DrainingError.
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
    def healthy(self) -> bool: ...

    @property
    def running(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache's tokens in use, 0 to 1."""


class SlotEngine(Protocol):
    """Computes logits for sequences that live in numbered slots. Used from one thread only."""

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

    def reset(self, slot: int) -> None: ...


class Observer(Protocol):
    """Told about every sequence as it passes through an engine. All times in seconds."""

    def admitted(self, queued: float) -> None: ...

    def prompt(self, tokens: int) -> None: ...

    def prefix(self, asked: int, found: int) -> None:
        """Tokens of a prompt that is about to be read, and those of them that need not be."""

    def first_token(self, since_arrival: float) -> None: ...

    def next_token(self, since_last: float) -> None: ...

    def finished(self, per_token: float | None) -> None:
        """`per_token`: mean time per output token after the first; None with fewer than two."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `lathe serve` was asked for; None stands for the engine's own choice; timeouts are in seconds.

    `playground`: whether there is a page at `/`; `compare`: another server's address, for that page.
    `draft`: a smaller model whose guesses the served one checks, `draft_tokens` at a time. `engine_args`:
    arguments for an engine that has a command line of its own.
    """

    host: str
    port: int
    device: str | None
    threads: int | None
    max_batch: int | None
    max_length: int | None
    max_queue: int
    prefix_cache: int | None
    served_model_names: tuple[str, ...]
    """What clients may ask for; the first is reported. None given: the directory's name."""
    api_key: str | None
    allowed_origins: tuple[str, ...]
    drain_timeout: float
    request_timeout: float | None
    write_timeout: float | None
    metrics_alias: str | None
    playground: bool
    compare: str | None
    compare_api_key: str | None
    draft: Path | None
    draft_tokens: int
    engine_args: tuple[str, ...]
    announce: Callable[[str, str], None]
    """Called with (URL, model) once a token has been generated."""


Serve = Callable[[Path, ServeOptions], None]


@dataclass(slots=True)
class _Registry:
    functions: dict[str, Serve] = field(default_factory=dict)


_registry = _Registry()


def register(name: str) -> Callable[[Serve], Serve]:
    """Decorator: the function serves a model directory with the engine of this name, until it is told to
    stop."""

    def keep(function: Serve) -> Serve:
        _registry.functions[name] = function
        return function

    return keep


def available_engines() -> list[str]:
    """Names of the installed engines; imports none of them."""
    import serving.engines

    return sorted(module.name for module in pkgutil.iter_modules(serving.engines.__path__) if module.ispkg)


def serve_with(name: str, model: Path, options: ServeOptions) -> None:
    """Serve `model` until told to stop. Raises UserError."""
    if name not in available_engines():
        raise UserError(f"there is no engine {name!r}", f"Engines: {', '.join(available_engines())}.")
    check_origins(options.allowed_origins)
    importlib.import_module(f"serving.engines.{name}.engine")
    _registry.functions[name](model, options)
