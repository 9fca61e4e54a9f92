"""One round of load: open loop by arrival times, closed loop by workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter, process_time

import httpx

from .arrival import arrival_times
from .client import Sample, Target, request_body, timed_request
from .load import Load
from .measure import Round
from .prompts import Prompts

DEAD_AFTER = 10
WARMUP_SEED = 1_000_003


@dataclass
class _Session:
    """What the requests of a round share."""

    http: httpx.AsyncClient
    target: Target
    load: Load
    prompts: Iterator[str]
    on_done: Callable[[Sample], None]
    start: float = field(default_factory=perf_counter)
    samples: list[Sample] = field(default_factory=list)
    unreachable: int = 0
    started: int = 0

    @property
    def dead(self) -> bool:
        """Nothing has answered for so long that more requests would only be more of the same error."""
        return self.unreachable >= DEAD_AFTER

    def admit(self, elapsed_s: float) -> bool:
        """Take the next request's place in the round; False when the round is over."""
        load = self.load
        over = (load.requests is not None and self.started >= load.requests) or (
            load.duration_s is not None and elapsed_s >= load.duration_s
        )
        if over or self.dead:
            return False
        self.started += 1
        return True

    async def request(self, due_s: float | None = None) -> None:
        load = self.load
        body = request_body(self.target.model, next(self.prompts), load.output_tokens, load.endpoint)
        sample = await timed_request(self.http, self.target, load.endpoint, body, self.start, load.timeout_s)
        if due_s is not None:
            sample.late_s = sample.sent_s - due_s
        self.unreachable = self.unreachable + 1 if sample.error_kind == "connect" else 0
        self.samples.append(sample)
        self.on_done(sample)


async def drive(
    http: httpx.AsyncClient,
    target: Target,
    load: Load,
    prompts: Prompts,
    seed: int,
    on_done: Callable[[Sample], None] = lambda _: None,
) -> Round:
    """Warm up, then send one round of `load` and wait for the last answer.

    The seed sets the prompts and the arrival times. `on_done` hears of every measured request.
    """
    if load.warmup:
        warm = replace(
            load,
            rate=None,
            concurrency=load.concurrency or 1,
            requests=load.warmup,
            duration_s=None,
            warmup=0,
        )
        await drive(http, target, warm, prompts, seed + WARMUP_SEED)
    session = _Session(http, target, load, prompts(seed), on_done)
    cpu = process_time()
    await (_open_loop(session, load.rate, seed) if load.rate is not None else _closed_loop(session))
    reason = f"nothing answered {DEAD_AFTER} requests in a row" if session.dead else None
    session.samples.sort(key=lambda sample: sample.sent_s)
    return Round(session.samples, process_time() - cpu, reason)


async def _open_loop(session: _Session, rate: float, seed: int) -> None:
    async with asyncio.TaskGroup() as requests:
        for due_s in arrival_times(rate, session.load.arrival, seed):
            if not session.admit(due_s):
                return
            await asyncio.sleep(max(0.0, session.start + due_s - perf_counter()))
            requests.create_task(session.request(due_s))


async def _closed_loop(session: _Session) -> None:
    async def worker() -> None:
        while session.admit(perf_counter() - session.start):
            await session.request()

    async with asyncio.TaskGroup() as workers:
        for _ in islice(range(session.load.concurrency or 1), session.load.requests):
            workers.create_task(worker())
