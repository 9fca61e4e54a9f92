"""Engines of one process: turns, one limit, one memory, and nobody who waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from test_serve_kv_budget import TOKEN, PagedEngine, wait_for
from test_serve_scheduler import EOS, Reader, Silent, request

from lathe.serving.backend import DrainingError, GenerationRequest, QueueFullError
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.kv_budget import KVBudget, KVPool
from lathe.serving.scheduler.scheduler import Scheduler
from lathe.serving.scheduler.sequence import Sequence
from lathe.serving.scheduler.subnets import SubnetsBackend
from lathe.serving.scheduler.turns import Turns

NAMES = ("wide", "small")


class LoggingEngine(PagedEngine):
    """Notes each step in a list that engines share, and that no two compute at the same time."""

    def __init__(self, name: str, steps: list[str], busy: threading.Lock) -> None:
        super().__init__()
        self._name, self._steps, self._busy = name, steps, busy

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        assert self._busy.acquire(blocking=False), "two engines compute at the same time"
        try:
            self._steps.append(self._name)
            return super().decode(tokens)
        finally:
            self._busy.release()


class Together:
    """Two schedulers as a family has them."""

    def __init__(self, total: int = 1000 * TOKEN, capacity: int = 30) -> None:
        self.steps: list[str] = []
        admission, pool, busy = Admission(capacity), KVPool(total), threading.Lock()
        self.engines = {name: LoggingEngine(name, self.steps, busy) for name in NAMES}
        self.schedulers = {
            name: Scheduler(
                engine,
                lambda t: b"%d " % t,
                eos=[EOS],
                admission=admission,
                observer=Silent(),
                prefill_chunk=4,
                kv_budget=KVBudget(engine, pool),
            )
            for name, engine in self.engines.items()
        }
        self.backend = SubnetsBackend(self.schedulers)

    def read(self, name: str, *tokens: int, max_tokens: int) -> Reader:
        asked = replace(request(*tokens, max_tokens=max_tokens), subnet=name)
        return Reader(self.backend, asked)


@contextmanager
def together(**settings: int) -> Iterator[Together]:
    both = Together(**settings)
    both.backend.warm_up()
    both.steps.clear()
    yield both
    for engine in both.engines.values():
        engine.gate.set()
    both.backend.close()


def test_turns_are_handed_on_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[int]()
    threads = []
    with turns:
        for number in range(5):
            thread = threading.Thread(target=lambda number=number: _take(turns, order, number))
            thread.start()
            threads.append(thread)
            wait_for(lambda number=number: len(turns._waiting) == number + 1)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == list(range(5))


def _take(turns: Turns, order: list[int], number: int) -> None:
    with turns:
        order.append(number)


def test_steps_of_two_engines_alternate_and_never_overlap() -> None:
    with together() as both:
        for engine in both.engines.values():
            engine.gate.clear()
        readers = [both.read(name, 1, 2, max_tokens=40) for name in NAMES]
        wait_for(lambda: both.backend.num_running >= 1)
        time.sleep(0.05)  # the other engine's thread asks for its turn meanwhile
        for engine in both.engines.values():
            engine.gate.set()
        assert [len(reader.text().split()) for reader in readers] == [40, 40]
        both_run = both.steps[max(both.steps.index(name) for name in NAMES) : 60]
        pairs = list(pairwise(both_run))
        assert len(pairs) > 30, both.steps
        assert sum(a == b for a, b in pairs) <= 2


def test_answers_are_those_of_engines_alone() -> None:
    jobs: list[GenerationRequest] = [request(*range(2, 3 + i % 9), max_tokens=1 + i % 7) for i in range(20)]
    with together() as alone:
        expected = [Reader(alone.backend, replace(job, subnet="wide")).text() for job in jobs]
    with together(total=40 * TOKEN) as both:
        names = [NAMES[i % 2] for i in range(len(jobs))]
        readers = [
            Reader(both.backend, replace(job, subnet=name)) for job, name in zip(jobs, names, strict=True)
        ]
        assert [reader.text() for reader in readers] == expected
        assert {"wide", "small"} == set(both.steps)


def test_unfinished_sequences_are_bounded_over_all_engines() -> None:
    with together(capacity=3) as both:
        both.engines["wide"].gate.clear()
        readers = [both.read(name, 1, max_tokens=2) for name in ("wide", "wide", "small")]
        with pytest.raises(QueueFullError, match="3 of 3"):
            both.read("small", 1, max_tokens=2)
        both.engines["wide"].gate.set()
        for reader in readers:
            reader.rest()
        assert both.read("small", 1, max_tokens=2).rest()[-1].finish_reason == "length"


def test_memory_is_one_over_all_engines_and_nobody_is_passed_by() -> None:
    with together(total=20 * TOKEN) as both:
        both.engines["wide"].gate.clear()
        first = both.read("wide", 1, 2, 3, max_tokens=9)
        wait_for(lambda: both.backend.num_running == 1)
        large = both.read("small", 4, 5, 6, max_tokens=9)
        wait_for(lambda: both.backend.num_waiting == 1)
        later = both.read("wide", 7, max_tokens=3)  # would fit; the other engine's sequence waits longer
        both.engines["wide"].gate.set()
        for reader in (first, large, later):
            assert reader.rest()[-1].finish_reason == "length"
        wait_for(lambda: both.backend.kv_reserved_bytes == 0)
        assert max(engine.most for engine in both.engines.values()) <= 20 * TOKEN


def test_one_who_waits_for_memory_and_gives_up_blocks_nobody() -> None:
    with together(total=20 * TOKEN) as both:
        both.engines["wide"].gate.clear()
        first = both.read("wide", 1, 2, 3, max_tokens=9)
        wait_for(lambda: both.backend.num_running == 1)
        large = both.read("small", 4, 5, 6, max_tokens=9)
        wait_for(lambda: both.backend.num_waiting == 1)
        time.sleep(0.02)  # it has been refused by now
        large.handle.cancel()
        small = both.read("small", 7, max_tokens=3)
        both.engines["wide"].gate.set()
        for reader in (small, first):
            assert reader.rest()[-1].finish_reason == "length"


def test_free_slots_of_one_engine_give_their_memory_to_the_other() -> None:
    pool, first, second = KVPool(24 * TOKEN), PagedEngine(), PagedEngine()
    budgets = [KVBudget(engine, pool) for engine in (first, second)]
    begun = sequence(8)
    budgets[0].reserve(begun, 0)
    first.touched[0] = 8
    budgets[0].cancel(begun)
    budgets[1].reserve(sequence(12), 0)
    assert budgets[0].spare == 8 * TOKEN  # 20 of 24
    budgets[1].reserve(sequence(8), 1)
    assert budgets[0].spare == 0


def sequence(tokens: int) -> Sequence:
    asked = request(1, max_tokens=tokens - 1)
    return Sequence(asked, lambda _: None, lambda _: b"", (), Silent())


def test_draining_and_closing_are_of_all() -> None:
    with together() as both:
        both.engines["small"].gate.clear()
        reader = both.read("small", 1, max_tokens=2)
        assert not both.backend.drain(0.01)
        for name in NAMES:
            with pytest.raises(DrainingError):
                both.read(name, 1, max_tokens=1)
        both.engines["small"].gate.set()
        assert reader.rest()[-1].finish_reason == "length"
        assert both.backend.drain(10)
        both.backend.close()
        assert not both.backend.healthy
