"""Memory of sequences: who waits for it, what is told of it, when it is given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_serve_prefixes import CHUNK, KeepingEngine, Seen
from test_serve_scheduler import EOS, Reader, Silent, request

from lathe.artefact.errors import UserError
from lathe.serving.launch import kv_memory
from lathe.serving.options import ServeOptions
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.kv_budget import KVBudget, KVPool
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.scheduler import Scheduler
from support.tiny_server import CONTEXT, running

PAGE, TOKEN = 4, 10
"""Tokens of a page, bytes of a token."""


class PagedEngine(KeepingEngine):
    """Counts its memory in pages; what is kept is shown by the slots that have it."""

    kv_bytes_per_token = TOKEN

    def __init__(self) -> None:
        super().__init__()
        self.touched = [0] * self.max_batch
        self.shown: list[list[list[int]]] = [[] for _ in range(self.max_batch)]
        self.most = 0
        self.releases = 0

    def kv_bytes(self, tokens: int) -> int:
        return -(-tokens // PAGE) * PAGE * TOKEN

    def held_bytes(self, slot: int) -> int:
        return self.kv_bytes(max(self.touched[slot], len(self.history[slot]))) - self.shared_bytes(slot)

    def shared_bytes(self, slot: int) -> int:
        return sum(map(len, self.shown[slot])) * TOKEN

    def release(self, slot: int, keep: int = 0) -> None:
        self.releases += 1
        self.touched[slot] = min(self.touched[slot], -(-max(keep, len(self.history[slot])) // PAGE) * PAGE)

    kept_bytes = 0

    def prefill(self, slot: int, tokens: np.ndarray, logits: str = "last") -> np.ndarray:
        rows = super().prefill(slot, tokens, logits)
        self._note()
        return rows

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        rows = super().decode(tokens)
        self._note()
        return rows

    def _note(self) -> None:
        self.touched = [max(pair) for pair in zip(self.touched, map(len, self.history), strict=True)]
        self.most = max(self.most, sum(map(self.held_bytes, range(self.max_batch))))

    def move(self, source: int, target: int) -> None:
        self.shown[target], self.shown[source] = self.shown[source], []
        super().move(source, target)
        self.touched[target] = len(self.history[target])

    def reset(self, slot: int) -> None:
        super().reset(slot)
        if self.shown[slot]:
            self.shown[slot], self.touched[slot] = [], 0

    def restore_kv(self, slot: int, kept: list[list[int]], tokens: int) -> None:
        super().restore_kv(slot, kept, tokens)
        self.shown[slot] = list(kept)
        self._note()

    def is_shown(self, kept: list[int]) -> bool:
        return any(kept is other for slot in self.shown for other in slot)


@contextmanager
def scheduling(total: int, prefix: int = 0) -> Iterator[tuple[Scheduler, PagedEngine, Seen]]:
    engine, seen = PagedEngine(), Seen()
    scheduler = Scheduler(
        engine,
        lambda t: b"%d " % t,
        eos=[EOS],
        admission=Admission(engine.max_batch + 30),
        observer=seen if prefix else Silent(),
        prefill_chunk=CHUNK,
        prefix_cache=PrefixCache(engine, seen, CHUNK, prefix) if prefix else None,
        kv_budget=KVBudget(engine, KVPool(total)),
    )
    scheduler.warm_up()
    engine.most = 0
    yield scheduler, engine, seen
    engine.gate.set()
    scheduler.close()


def wait_for(check: Callable[[], bool]) -> None:
    """Until a condition holds, which the scheduler's thread brings about."""
    pause = threading.Event()
    for _ in range(500):
        if check():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")


def test_a_sequence_waits_for_the_memory_of_its_prompt_and_answer() -> None:
    with scheduling(total=20 * TOKEN) as (scheduler, engine, _):
        engine.gate.clear()
        first = Reader(scheduler, request(1, 2, 3, max_tokens=9))
        wait_for(lambda: scheduler.num_running == 1)
        assert scheduler.kv_reserved_bytes == 12 * TOKEN
        large = Reader(scheduler, request(4, 5, 6, max_tokens=7))
        small = Reader(scheduler, request(7, max_tokens=3))  # would fit, and keeps its turn
        wait_for(lambda: scheduler.num_waiting == 2)
        assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)
        engine.gate.set()
        for reader in (first, large, small):
            assert reader.rest()[-1].finish_reason == "length"
        wait_for(lambda: scheduler.kv_reserved_bytes == 0)
        assert engine.most <= scheduler.kv_cache_bytes == 20 * TOKEN


@pytest.mark.parametrize("prefix", [0, 5 * CHUNK])
def test_answers_do_not_depend_on_the_memory_which_is_never_exceeded(prefix: int) -> None:
    stem = tuple(range(20, 30))
    jobs = [request(*stem[: i % 11], i + 1, max_tokens=1 + i * 7 % 13) for i in range(30)]
    with scheduling(total=1000 * TOKEN) as (scheduler, _, _):
        expected = [Reader(scheduler, job).text() for job in jobs]
    with scheduling(total=32 * TOKEN, prefix=prefix) as (scheduler, engine, seen):
        readers = [Reader(scheduler, job) for job in jobs]
        assert [reader.text() for reader in readers] == expected
        assert 16 * TOKEN < engine.most <= 32 * TOKEN
        assert any(found for _, found in seen.prefixes) == bool(prefix)
        wait_for(lambda: scheduler.kv_resident_bytes == 0)
        assert (scheduler.kv_reserved_bytes, scheduler.kv_cache_usage) == (0, 0)


def test_memory_stays_for_one_who_waits_and_goes_when_none_does() -> None:
    with scheduling(total=1000 * TOKEN) as (scheduler, engine, _):
        wait_for(lambda: engine.touched == [0] * engine.max_batch)
        Reader(scheduler, request(1, 2, 3, max_tokens=9)).rest()
        wait_for(lambda: engine.touched == [0] * engine.max_batch)
        engine.gate.clear()
        reader = Reader(scheduler, *(request(i + 1, max_tokens=9) for i in range(12)))
        wait_for(lambda: scheduler.num_running == 3)
        assert engine.releases >= engine.max_batch
        engine.releases = 0
        engine.gate.set()
        reader.rest()
        assert engine.releases < 12 + 3 * engine.max_batch


def test_what_slots_share_is_reserved_once_and_not_let_go_of() -> None:
    stem = tuple(range(20, 28))
    with scheduling(total=60 * TOKEN, prefix=2 * CHUNK) as (scheduler, engine, seen):
        Reader(scheduler, request(*stem, 1, max_tokens=1)).rest()
        engine.gate.clear()
        reader = Reader(scheduler, *(request(*stem, i + 2, max_tokens=3) for i in range(3)))
        wait_for(lambda: scheduler.num_running == 3)
        assert scheduler.kv_reserved_bytes == 3 * PAGE * TOKEN
        assert scheduler.kv_cache_usage == 3 / 60
        engine.gate.set()
        reader.rest()
        assert [found for _, found in seen.prefixes] == [0, 8, 8, 8]


def test_a_slots_chunk_stays_when_there_is_no_room_for_another() -> None:
    one, other = tuple(range(20, 24)), tuple(range(30, 34))
    with scheduling(total=60 * TOKEN, prefix=CHUNK) as (scheduler, engine, seen):
        Reader(scheduler, request(*one, 1, max_tokens=1)).rest()
        engine.gate.clear()
        reader = Reader(scheduler, request(*one, 2, max_tokens=3), request(*other, 1, max_tokens=3))
        wait_for(lambda: scheduler.num_running == 2)
        engine.gate.set()
        reader.rest()
        Reader(scheduler, request(*one, 3, max_tokens=1)).rest()
        assert [found for _, found in seen.prefixes] == [0, CHUNK, 0, CHUNK]


def test_served_answers_are_the_same_with_room_for_one_sequence(artefact_dir: Path) -> None:
    prompts = [[5 + i * 7 % 300 for i in range(length)] for length in (3, 150, 40, 260)]
    with running(artefact_dir) as server:
        per_token = server.runner.kv_bytes_per_token
        expected = [server.complete(prompt, max_tokens=20, seed=1)["choices"] for prompt in prompts]
    with running(artefact_dir, kv_memory=CONTEXT * per_token, prefix_cache=512) as server:
        assert server.counter("lathe_kv_cache_bytes") == CONTEXT * per_token
        for _ in range(2):
            answers = [server.complete(prompt, max_tokens=20, seed=1)["choices"] for prompt in prompts]
            assert answers == expected
        assert server.complete(prompts, max_tokens=20, seed=1)["choices"][1]["text"] == expected[1][0]["text"]
        wait_for(lambda: server.counter("lathe_kv_cache_reserved_bytes") == 0)
        wait_for(lambda: server.counter("lathe_kv_cache_resident_bytes") == 2 * 128 * per_token)
        assert server.runner.kept_bytes == 2 * 128 * per_token


class Free:
    takes_pages, max_length, kv_bytes_per_token = True, 100, TOKEN
    kv_cache_bytes = 8 * 100 * TOKEN

    def kv_bytes(self, tokens: int) -> int:
        return tokens * TOKEN


def memory(free: int, monkeypatch: pytest.MonkeyPatch, engine: Free | None = None, **options: int) -> int:
    monkeypatch.setattr(kv_memory, "free_bytes", lambda: free)
    return kv_memory.kv_memory([engine or Free()], ServeOptions(out=Path(), **options))


def test_the_budget_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory(10**6, monkeypatch) == 8 * 100 * TOKEN
    assert memory(4000, monkeypatch) == 3600
    assert memory(10**6, monkeypatch, kv_cache_memory=2000) == 2000
    assert memory(10**6, monkeypatch, kv_cache_memory=10**9) == 8 * 100 * TOKEN
    assert memory(4000, monkeypatch, prefix_cache=128) == int(0.9 * (4000 - 1280))


def test_a_budget_that_holds_no_sequence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"does not hold one sequence of 100 .* at most 81\.$"):
        memory(900, monkeypatch)
    with pytest.raises(UserError, match="at most 50, or raise --kv-cache-memory"):
        memory(10**6, monkeypatch, kv_cache_memory=500)
    with pytest.raises(UserError, match="do not fit into the .* that are free"):
        memory(5000, monkeypatch, kv_cache_memory=4000, prefix_cache=128)
    whole = Free()
    whole.takes_pages = False
    assert memory(10, monkeypatch, whole) == 8 * 100 * TOKEN
    with pytest.raises(UserError, match="takes the whole KV cache at the start"):
        memory(10**6, monkeypatch, whole, kv_cache_memory=4000)
