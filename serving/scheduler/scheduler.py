"""Continuous batching: each step prefills chunks of prompts, then decodes every active sequence by one token.

One thread owns the engine. The chunks of a prompt are cut at fixed places and every sequence samples
from its own random stream, so an answer does not depend on who else is being served.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import abc, deque
from functools import partial
from typing import Literal

import numpy as np

from lathe.serving.backend import (
    Dispatch,
    GenerationRequest,
    Observer,
    OutputCallback,
    RequestOutput,
    SlotEngine,
    run_callbacks,
)
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.kv_budget import KVBudget
from lathe.serving.scheduler.output_batcher import OutputBatcher
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.queue import AdmissionQueue
from lathe.serving.scheduler.sequence import Sequence, SequenceStatus
from lathe.serving.scheduler.slots import Slots
from lathe.serving.structured_output.schema_errors import GrammarError

PREFILL_CHUNK = 128
FAILURES_TO_UNHEALTHY = 3
MAX_CHUNKS_PER_STEP = 4
"""The most chunks that are prefilled between two decoding steps.

A step spends the tokens of one whole chunk on prompts, and counts a short chunk as at least a quarter of one,
because a pass over few tokens costs hardly less."""
FAILED = "the engine failed on this request"
STOPPED = "the server stopped before the answer was complete"

log = logging.getLogger("lathe.serving")


class Scheduler:
    """A `ServingBackend` over a `SlotEngine`.

    A sequence is WAITING in the queue, PREFILLING or DECODING in a slot, and FINISHED. `_schedule` and
    `_prefill_chunk` move it forward; `_finish` is the only way out.
    """

    def __init__(
        self,
        engine: SlotEngine,
        token_bytes: abc.Callable[[int], bytes],
        *,
        eos: abc.Collection[int],
        admission: Admission,
        observer: Observer,
        prefill_chunk: int = PREFILL_CHUNK,
        prefix_cache: PrefixCache | None = None,
        kv_budget: KVBudget | None = None,
    ) -> None:
        """Creates the scheduler; `warm_up` starts it.

        Args:
            engine: computes the logits.
            token_bytes: returns the bytes of a token.
            eos: the tokens that end an answer.
            admission: bounds the unfinished sequences; engines that share it take turns.
            observer: is told about every sequence.
            prefill_chunk: the most prompt tokens that are prefilled at a time.
            prefix_cache: keeps chunks of that size for later prompts.
            kv_budget: bounds the memory of sequences; without one, a free slot is enough.
        """
        self._engine = engine
        self._token_bytes = token_bytes
        self.eos = eos
        self._observer = observer
        self._chunk = prefill_chunk
        self._queue = AdmissionQueue(admission)
        self._turns = admission.turns
        self._slots = Slots(engine)
        self._outputs = OutputBatcher()
        self._cancelled: deque[Sequence] = deque()
        self._prefix_cache = prefix_cache
        self._kv_budget = kv_budget
        self.prompt_engine = ""
        self._failures = {"prefill": 0, "decode": 0}
        self._thread = threading.Thread(target=self._run, name="lathe-scheduler", daemon=True)
        self.capacity = admission.capacity
        self.max_batch = engine.max_batch
        self.max_length = engine.max_length
        self.vocab_size = engine.vocab_size
        self.weight_bytes = engine.weight_bytes
        self.kv_cache_bytes = engine.kv_cache_bytes if kv_budget is None else kv_budget.total
        self.kv_bytes_per_token = engine.kv_bytes_per_token

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and max(self._failures.values()) < FAILURES_TO_UNHEALTHY

    @property
    def num_running(self) -> int:
        return len(self._slots.sequences)

    @property
    def num_waiting(self) -> int:
        return self._queue.num_waiting

    @property
    def waiting_since(self) -> float | None:
        return self._queue.waiting_since()

    @property
    def kv_cache_usage(self) -> float:
        if self._kv_budget is not None:
            return self._kv_budget.used / max(1, self._kv_budget.total)
        return float(self._engine.lengths.sum()) / (self._engine.max_batch * self._engine.max_length)

    @property
    def kv_reserved_bytes(self) -> int:
        return self.kv_cache_bytes if self._kv_budget is None else self._kv_budget.reserved

    @property
    def kv_resident_bytes(self) -> int:
        return self.kv_cache_bytes if self._kv_budget is None else self._kv_budget.held

    @property
    def kv_prefix_bytes(self) -> int:
        return 0 if self._kv_budget is None else self._kv_budget.kept

    def warm_up(self) -> None:
        """Prefills and decodes a token in every slot, then starts the thread.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        with self._turns:
            self._try_all_slots()
        self._thread.start()

    def _try_all_slots(self) -> None:
        token = np.zeros(1, dtype=np.int64)
        for slot in range(self._engine.max_batch):
            self._engine.prefill(slot, token)
        logits = self._engine.decode(np.zeros(self._engine.max_batch, dtype=np.int64))
        if not np.isfinite(logits).all():
            raise FloatingPointError("the model's logits are not finite numbers")
        for slot in range(self._engine.max_batch):
            self._engine.reset(slot)
        self._release_memory()

    def check_capacity(self, count: int) -> None:
        self._queue.check_capacity(count)

    def add_requests(
        self,
        requests: abc.Sequence[GenerationRequest],
        callback: OutputCallback,
        dispatch: Dispatch = run_callbacks,
    ) -> _RequestHandle:
        emit = partial(self._outputs.add, dispatch, callback)
        sequences = [
            Sequence(request, emit, self._token_bytes, self.eos, self._observer) for request in requests
        ]
        self._queue.add(sequences)
        return _RequestHandle(self, sequences)

    def cancel(self, sequences: abc.Sequence[Sequence]) -> None:
        """Drops the sequences that wait, and leaves the running ones to the engine's thread."""
        for sequence in self._queue.cancel(sequences):
            self._finish(sequence)
        self._cancelled.extend(s for s in sequences if s.status is not SequenceStatus.FINISHED)

    def drain(self, timeout: float) -> bool:
        return self._queue.admission.drain(timeout)

    def close(self) -> None:
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._queue.closed:
                if not self._slots.sequences:
                    self._queue.wait_for_work(self._admits)
                with self._turns:
                    self._step()
        except Exception:
            log.exception("the scheduler failed")
        finally:
            self._queue.close()
            with self._turns:
                self._finish_all(STOPPED)
            self._outputs.flush()

    def _step(self) -> None:
        self._finish_cancelled()
        self._prefill_step()
        self._decode_step()
        self._outputs.flush()
        self._release_memory()

    def _prefill_step(self) -> None:
        """Prefills up to one chunk's worth of tokens, so that decoding waits no longer than that."""
        budget = self._chunk
        while budget > 0 and not self._queue.closed and (sequence := self._schedule()):
            budget -= max(self._prefill_chunk(sequence), self._chunk // MAX_CHUNKS_PER_STEP)
            self._outputs.flush()
            self._finish_cancelled()

    def _schedule(self) -> Sequence | None:
        """Returns the sequence to prefill next; admits one that waits if a slot and its memory are free."""
        if self._queue.num_waiting and self._slots.can_prefill and (waiting := self._queue.pop(self._admits)):
            self._observer.admitted(time.perf_counter() - waiting.request.arrived)
            waiting.status = SequenceStatus.PREFILLING
            self._slots.add(waiting)
            slot = self._slots.index(waiting)
            if self._prefix_cache is not None:
                self._prefix_cache.restore(waiting, slot)
            if self._kv_budget is not None:
                self._kv_budget.reserve(waiting, slot)
        return self._slots.prefilling

    def _admits(self, sequence: Sequence) -> bool:
        return self._kv_budget is None or self._kv_budget.admits(sequence)

    def _release_memory(self) -> None:
        """Gives back the memory of free slots that no waiting sequence is about to take."""
        if self._kv_budget is not None and not self._queue.num_waiting:
            self._kv_budget.release()

    def _prefill_chunk(self, sequence: Sequence) -> int:
        """Prefills the next chunk of a prompt and returns its length in tokens."""
        tokens = sequence.remaining_prompt[: self._chunk]
        logits = self._forward("prefill", [sequence], partial(self._prefill, sequence, tokens))
        if logits is not None:
            final = self._advance(sequence, sequence.append_prompt, tokens, logits)
            if final is not None:
                self._finish(sequence, final)
            elif not len(sequence.remaining_prompt):
                sequence.status = SequenceStatus.DECODING
        return len(tokens)

    def _prefill(self, sequence: Sequence, tokens: np.ndarray) -> np.ndarray:
        wanted: Literal["last", "all"] = "all" if sequence.request.prompt_logprobs else "last"
        slot = self._slots.index(sequence)
        logits = self._engine.prefill(slot, tokens, wanted)
        if self._prefix_cache is not None:
            self._prefix_cache.insert(slot, sequence.num_computed + len(tokens))
        return logits

    def _decode_step(self) -> None:
        """Decodes one token of every active sequence; slots move only after all have been advanced."""
        active = self._slots.decoding
        if not active:
            return
        tokens = np.array([sequence.last_token for sequence in active], dtype=np.int64)
        logits = self._forward("decode", active, partial(self._engine.decode, tokens))
        if logits is None:
            return
        finals = [
            (sequence, final)
            for sequence, row in zip(active, logits, strict=True)
            if (final := self._advance(sequence, sequence.append_token, row)) is not None
        ]
        for sequence, final in reversed(finals):
            self._finish(sequence, final)

    def _forward(
        self, kind: str, sequences: abc.Sequence[Sequence], call: abc.Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """Returns the engine's logits, or None where it raised and the sequences have been finished.

        Failures in a row count by kind, since a successful prefill precedes every decode that fails.
        """
        try:
            logits = call()
        except Exception:
            log.exception("the engine failed with %d sequences", len(sequences))
            self._failures[kind] += 1
            for sequence in reversed(sequences):
                self._finish(sequence, _error_output(sequence, FAILED))
            return None
        self._failures[kind] = 0
        return logits

    def _advance(
        self, sequence: Sequence, step: abc.Callable[..., RequestOutput | None], *arrays: np.ndarray
    ) -> RequestOutput | None:
        """Returns the final output of a sequence that ends with this step; an error ends it as well."""
        try:
            return step(*arrays)
        except GrammarError as error:
            field = sequence.request.grammar.field if sequence.request.grammar else "response_format"
            return _error_output(sequence, f"{field}: {error}", status=400)
        except Exception:
            log.exception("a sequence failed while its token was chosen")
            return _error_output(sequence, FAILED)

    def _finish(self, sequence: Sequence, final: RequestOutput | None = None) -> None:
        """Releases what a sequence holds, then emits its final output; a cancelled one has none."""
        if sequence.status is not SequenceStatus.WAITING:
            self._slots.remove(sequence)
        if self._kv_budget is not None:
            self._kv_budget.cancel(sequence)
        sequence.status = SequenceStatus.FINISHED
        self._queue.admission.release()
        if final is not None:
            sequence.emit_final(final)

    def _finish_cancelled(self) -> None:
        while self._cancelled:
            sequence = self._cancelled.popleft()
            if sequence.status is not SequenceStatus.FINISHED:
                self._finish(sequence)

    def _finish_all(self, message: str) -> None:
        for sequence in reversed(self._slots.sequences.copy()):
            self._finish(sequence, _error_output(sequence, message))
        while waiting := self._queue.pop():
            self._finish(waiting, _error_output(waiting, message))


def _error_output(sequence: Sequence, message: str, status: int = 500) -> RequestOutput:
    return RequestOutput(sequence.request.index, error=message, status=status)


class _RequestHandle:
    def __init__(self, scheduler: Scheduler, sequences: list[Sequence]) -> None:
        self._scheduler = scheduler
        self._sequences = sequences

    def cancel(self) -> None:
        self._scheduler.cancel(self._sequences)
