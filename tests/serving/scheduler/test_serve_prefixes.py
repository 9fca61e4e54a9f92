"""Prompts that begin alike: read once, answered the same to the bit, kept apart by salt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_serve_scheduler import EOS, HistoryEngine, Reader, request

from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.scheduler import PREFILL_CHUNK, Scheduler
from support.tiny_server import Running, running

CHUNK = 4


class KeepingEngine(HistoryEngine):
    """Also counts the prompt tokens that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0
        self.refuse_to_keep = False

    def prefill(self, slot: int, tokens: np.ndarray, logits: str = "last") -> np.ndarray:
        self.read += len(tokens)
        return super().prefill(slot, tokens, logits)

    def keep_kv(self, slot: int, start: int, stop: int) -> list[int]:
        if self.refuse_to_keep:
            raise MemoryError
        return self.history[slot][start:stop]

    def restore_kv(self, slot: int, kept: list[list[int]], tokens: int) -> None:
        self.history[slot] += [token for part in kept for token in part]
        assert len(self.history[slot]) == tokens

    def is_shown(self, kept: list[int]) -> bool:
        return False


class Seen:
    """An observer of prefixes alone."""

    def __init__(self) -> None:
        self.prefixes: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def prefix(self, asked: int, found: int) -> None:
        self.prefixes.append((asked, found))


@contextmanager
def scheduling(room: int) -> Iterator[tuple[Scheduler, KeepingEngine, Seen]]:
    engine, seen = KeepingEngine(), Seen()
    scheduler = Scheduler(
        engine,
        lambda t: b"%d " % t,
        eos=[EOS],
        admission=Admission(engine.max_batch + 30),
        observer=seen,
        prefill_chunk=CHUNK,
        prefix_cache=PrefixCache(engine, seen, CHUNK, room) if room else None,
    )
    scheduler.warm_up()
    engine.read = 0
    yield scheduler, engine, seen
    scheduler.close()


SYSTEM = tuple(range(10, 20))


def test_a_repeated_beginning_is_read_once() -> None:
    with scheduling(room=40) as (scheduler, engine, seen):
        first = Reader(scheduler, request(*SYSTEM, 1, 2)).text()
        assert engine.read == 12
        for again, left in (((1, 2), CHUNK), ((1, 3), CHUNK), ((), 2)):
            engine.read = 0
            Reader(scheduler, request(*SYSTEM, *again)).text()
            assert engine.read == left
        assert seen.prefixes == [(12, 0), (12, 8), (12, 8), (10, 8)]
        assert Reader(scheduler, request(*SYSTEM, 1, 2)).text() == first


def test_answers_are_those_without_it_in_any_company() -> None:
    jobs = [request(*SYSTEM[: 3 + i % 8], *range(i % 3), i + 1, max_tokens=1 + i % 9) for i in range(40)]
    with scheduling(room=0) as (scheduler, _, _):
        expected = [Reader(scheduler, job).text() for job in jobs]
    with scheduling(room=12) as (scheduler, _, seen):
        readers = [Reader(scheduler, job) for job in jobs[:30]]
        assert [reader.text() for reader in readers] == expected[:30]
        assert [Reader(scheduler, job).text() for job in jobs[30:]] == expected[30:]
        assert sum(found for _, found in seen.prefixes) > 40


def test_a_prompt_that_is_scored_is_read_whole_and_kept() -> None:
    with scheduling(room=40) as (scheduler, engine, seen):
        for _ in range(2):
            engine.read = 0
            job = request(*SYSTEM, max_tokens=0, logprobs=1, prompt_logprobs=True)
            assert len(Reader(scheduler, job).rest()[0].prompt_logprobs) == len(SYSTEM)
            assert engine.read == len(SYSTEM)
        Reader(scheduler, request(*SYSTEM)).text()
        assert seen.prefixes == [(10, 0), (10, 0), (10, 8)]


def test_salts_are_kept_apart() -> None:
    with scheduling(room=40) as (scheduler, _, seen):
        for salt in ("", "a", "b", "a", "\ud800"):
            Reader(scheduler, request(*SYSTEM, cache_salt=salt)).text()
        assert [found for _, found in seen.prefixes] == [0, 0, 0, 8, 0]


def test_room_is_bounded_and_the_least_recently_used_go_first() -> None:
    prompts = [(start, *SYSTEM[1:9]) for start in (1, 2)]
    with scheduling(room=2 * CHUNK) as (scheduler, _, seen):
        for prompt in (prompts[0], prompts[1], prompts[1], prompts[0]):
            Reader(scheduler, request(*prompt)).text()
        assert [found for _, found in seen.prefixes] == [0, 0, 8, 0]
    with scheduling(room=CHUNK) as (scheduler, _, seen):
        for _ in range(2):
            Reader(scheduler, request(*SYSTEM)).text()
        assert [found for _, found in seen.prefixes] == [0, CHUNK]  # the beginning is what is left


def test_one_that_cannot_be_kept_fails_alone() -> None:
    with scheduling(room=40) as (scheduler, engine, _):
        engine.refuse_to_keep = True
        assert Reader(scheduler, request(*SYSTEM)).rest()[-1].error
        engine.refuse_to_keep = False
        assert Reader(scheduler, request(*SYSTEM)).rest()[-1].finish_reason == "length"


@pytest.fixture(scope="module")
def servers(artefact_dir: Path) -> Iterator[tuple[Running, Running]]:
    with running(artefact_dir, prefix_cache=1024, alias="vllm") as keeping, running(artefact_dir) as plain:
        yield keeping, plain


def test_served_answers_are_equal_to_the_bit_and_counted(servers: tuple[Running, Running]) -> None:
    keeping, plain = servers
    system = [7 + i * 13 % 300 for i in range(2 * PREFILL_CHUNK + 20)]
    asked = 0
    for end in (3, 3, 4, 5):
        prompt = [*system, end]
        asked += len(prompt)
        options: dict[str, Any] = {"max_tokens": 20, "seed": end, "logprobs": 3, "n": 1}
        assert keeping.complete(prompt, **options)["choices"] == plain.complete(prompt, **options)["choices"]
    assert keeping.counter("lathe_prefix_cache_queried_tokens_total") == asked
    assert keeping.counter("lathe_prefix_cache_hit_tokens_total") == 3 * 2 * PREFILL_CHUNK
    assert keeping.counter("lathe_prompt_tokens_total") == asked
    assert (
        b'vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 768.0'
        in keeping.metrics.exposition.render()
    )


def test_usage_tells_what_was_not_read_again(servers: tuple[Running, Running]) -> None:
    keeping, plain = servers
    system = [5 + i * 11 % 300 for i in range(PREFILL_CHUNK + 20)]
    for prompt, options, cached in (
        (system, {}, 0),
        (system, {"n": 3}, PREFILL_CHUNK),
        ([system, system], {"n": 2, "best_of": 4}, 2 * PREFILL_CHUNK),
        (system[:40], {}, 0),
        (system, {"echo": True, "logprobs": 1}, 0),
        (system, {"cache_salt": "other"}, 0),
    ):
        usage = keeping.complete(prompt, max_tokens=2, **options)["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": cached}
        assert "prompt_tokens_details" not in plain.complete(prompt, max_tokens=2, **options)["usage"]


def test_usage_of_chats_and_responses_does_so_too(servers: tuple[Running, Running]) -> None:
    keeping, _ = servers
    text = "y" * (PREFILL_CHUNK + 10)
    for cached in (0, PREFILL_CHUNK):
        messages = [{"role": "user", "content": text}]
        chat = keeping.post("chat/completions", messages=messages, max_tokens=2, cache_salt="s").json()
        assert chat["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
    told = keeping.post("responses", input=text, max_output_tokens=2, cache_salt="s").json()["usage"]
    assert told["input_tokens_details"] == {"cached_tokens": PREFILL_CHUNK, "cache_write_tokens": 0}
    stream = keeping.post(
        "chat/completions",
        messages=messages,
        max_tokens=2,
        cache_salt="s",
        stream=True,
        stream_options={"include_usage": True},
    ).text
    assert f'"prompt_tokens_details":{{"cached_tokens":{PREFILL_CHUNK}}}' in stream


def test_a_salt_in_the_body_keeps_clients_apart(servers: tuple[Running, Running]) -> None:
    keeping, _ = servers
    messages = [{"role": "user", "content": "x" * (PREFILL_CHUNK + 10)}]
    found = []
    for salt in ("a", "b", "b", None):
        before = keeping.counter("lathe_prefix_cache_hit_tokens_total")
        answer = keeping.post("chat/completions", messages=messages, max_tokens=2, cache_salt=salt)
        assert answer.status_code == 200
        found.append(keeping.counter("lathe_prefix_cache_hit_tokens_total") - before)
    assert found == [0, 0, PREFILL_CHUNK, 0]
    for salt in ("x" * 257, 1, ["a"]):
        refused = keeping.post("completions", prompt="x", cache_salt=salt)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cache_salt")
