"""Continuous batching: prompts are read in chunks between steps that decode every active sequence.

One thread owns the engine. The chunks of a prompt are cut at fixed places and every sequence samples
from its own random stream, so an answer does not depend on who else is being served.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from collections.abc import Sequence as Several
from functools import partial
from typing import Literal

import numpy as np

from lathe.serving.backend import GenerationRequest, Observer, OutputBatch, Sink, SlotEngine, deliver
from lathe.serving.scheduler.output_batcher import OutputBatcher
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.queue import AdmissionQueue
from lathe.serving.scheduler.sequence import Sequence
from lathe.serving.scheduler.slots import Slots
from lathe.serving.structured_output.schema_errors import GrammarError

PROMPT_CHUNK = 128
FAILURES_TO_UNHEALTHY = 3
_SHORT = 4
"""What part of a chunk the shortest prompt counts as."""
FAILED = "the engine failed on this request"
STOPPED = "the server stopped before the answer was complete"

log = logging.getLogger("lathe.serving")


class Scheduler:
    """A `Backend` over a `SlotEngine`."""

    def __init__(
        self,
        engine: SlotEngine,
        piece: Callable[[int], bytes],
        *,
        eos: Collection[int],
        max_queue: int,
        observer: Observer,
        prompt_chunk: int = PROMPT_CHUNK,
        prefixes: PrefixCache | None = None,
    ) -> None:
        """`piece` gives the bytes of a token; `prompt_chunk` is the most prompt tokens read at a time;
        `prefixes`, of such chunks, what is kept for later prompts.
        """
        self._engine = engine
        self._piece = piece
        self.eos = eos
        self._observer = observer
        self._prompt_chunk = prompt_chunk
        self._queue = AdmissionQueue(engine.max_batch + max_queue)
        self._slots = Slots(engine)
        self._outbox = OutputBatcher()
        self._prefixes = prefixes
        self._failures = {"prefill": 0, "decode": 0}
        self._thread = threading.Thread(target=self._run, name="lathe-scheduler", daemon=True)
        self.capacity = self._queue.capacity
        self.max_length = engine.max_length
        self.vocab_size = engine.vocab_size
        self.weight_bytes = engine.weight_bytes
        self.kv_cache_bytes = engine.kv_cache_bytes
        self.kv_bytes_per_token = engine.kv_bytes_per_token

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and max(self._failures.values()) < FAILURES_TO_UNHEALTHY

    @property
    def running(self) -> int:
        return self._slots.occupied

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    @property
    def kv_cache_usage(self) -> float:
        return float(self._engine.lengths.sum()) / (self._engine.max_batch * self._engine.max_length)

    def warm_up(self) -> None:
        """Read and decode a token in every slot, then start the thread."""
        token = np.zeros(1, dtype=np.int64)
        for slot in range(self._engine.max_batch):
            self._engine.prefill(slot, token)
        logits = self._engine.decode(np.zeros(self._engine.max_batch, dtype=np.int64))
        if not np.isfinite(logits).all():
            raise FloatingPointError("the model's logits are not finite numbers")
        for slot in range(self._engine.max_batch):
            self._engine.reset(slot)
        self._thread.start()

    def check_room(self, count: int) -> None:
        self._queue.check_room(count)

    def submit(
        self, requests: Several[GenerationRequest], sink: Sink, carry: Callable[[OutputBatch], None] = deliver
    ) -> _Ticket:
        post = partial(self._outbox.put, carry, sink)
        sequences = [Sequence(request, post, self._piece, self.eos) for request in requests]
        self._queue.enter(sequences)
        return _Ticket(self._queue, sequences)

    def drain(self, timeout: float) -> bool:
        return self._queue.drain(timeout)

    def close(self) -> None:
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._queue.closed:
                if not self._slots.occupied:
                    self._queue.wait_for_work()
                self._drop_cancelled()
                self._read_prompts()
                self._decode()
                self._outbox.send()
        except Exception:
            log.exception("the scheduler failed")
        finally:
            self._queue.close()
            self._fail_all(STOPPED)
            self._outbox.send()

    def _drop_cancelled(self) -> None:
        if self._slots.reading is not None and self._slots.reading.cancelled:
            self._end_reading()
        for slot in reversed(range(len(self._slots.decoding))):
            if self._slots.decoding[slot].cancelled:
                self._end(slot)

    def _read_prompts(self) -> None:
        """Chunks until one chunk's worth of tokens is read, so that decoding waits no longer; a short one
        counts as a part of a whole one, as a pass over few tokens costs hardly less.
        """
        budget = self._prompt_chunk
        while budget > 0 and not self._queue.closed:
            if self._slots.free and (waiting := self._queue.next()):
                self._observer.admitted(time.perf_counter() - waiting.request.arrived)
                self._slots.read(waiting)
                if self._prefixes is not None:
                    self._prefixes.begin(waiting, self._slots.reading_slot)
            if self._slots.reading is None:
                return
            budget -= max(self._read_chunk(self._slots.reading), self._prompt_chunk // _SHORT)
            self._outbox.send()

    def _read_chunk(self, sequence: Sequence) -> int:
        tokens = sequence.prompt_left[: self._prompt_chunk]
        logits = self._compute("prefill", [sequence], partial(self._prefill, sequence, tokens))
        if logits is not None:
            self._advance(sequence, lambda: sequence.take_prompt(tokens, logits, self._observer))
        if sequence.done or sequence.cancelled:
            self._end_reading()
        elif not len(sequence.prompt_left):
            self._slots.promote()
        return len(tokens)

    def _prefill(self, sequence: Sequence, tokens: np.ndarray) -> np.ndarray:
        wanted: Literal["last", "all"] = "all" if sequence.request.score_prompt else "last"
        slot = self._slots.reading_slot
        logits = self._engine.prefill(slot, tokens, wanted)
        if self._prefixes is not None:
            self._prefixes.keep(slot, sequence.prefilled + len(tokens))
        return logits

    def _decode(self) -> None:
        active = self._slots.decoding
        if not active:
            return
        tokens = np.array([sequence.next_token for sequence in active], dtype=np.int64)
        logits = self._compute("decode", active, lambda: self._engine.decode(tokens))
        if logits is not None:
            for sequence, row in zip(active, logits, strict=True):
                self._advance(sequence, partial(sequence.take, row, self._observer))
        for slot in reversed(range(len(active))):
            if active[slot].done:
                self._end(slot)

    def _compute(
        self, kind: str, sequences: Several[Sequence], call: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """The engine's answer; None, and all that took part have failed, when it raises. Failures in a row
        count by kind: before every decode that fails a prefill went well.
        """
        try:
            logits = call()
        except Exception:
            log.exception("the engine failed with %d sequences", len(sequences))
            self._failures[kind] += 1
            for sequence in sequences:
                sequence.fail(FAILED)
            return None
        self._failures[kind] = 0
        return logits

    def _advance(self, sequence: Sequence, step: Callable[[], None]) -> None:
        try:
            step()
        except GrammarError as error:
            field = sequence.request.grammar.field if sequence.request.grammar else "response_format"
            sequence.fail(f"{field}: {error}", status=400)
        except Exception:
            log.exception("a sequence failed while its token was chosen")
            sequence.fail(FAILED)

    def _end(self, slot: int) -> None:
        sequence = self._slots.decoding[slot]
        self._slots.drop(slot)
        self._queue.left()
        sequence.conclude()

    def _end_reading(self) -> None:
        sequence = self._slots.reading
        if sequence is not None:
            self._slots.drop_reading()
            self._queue.left()
            sequence.conclude()

    def _fail_all(self, message: str) -> None:
        if self._slots.reading is not None:
            self._slots.reading.fail(message)
            self._end_reading()
        for slot in reversed(range(len(self._slots.decoding))):
            self._slots.decoding[slot].fail(message)
            self._end(slot)
        while waiting := self._queue.next():
            waiting.fail(message)
            self._queue.left()
            waiting.conclude()


class _Ticket:
    def __init__(self, queue: AdmissionQueue, sequences: list[Sequence]) -> None:
        self._queue = queue
        self._sequences = sequences

    def cancel(self) -> None:
        for sequence in self._sequences:
            sequence.cancelled = True
        self._queue.withdraw(self._sequences)
