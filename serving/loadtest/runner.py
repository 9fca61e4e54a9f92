"""Sends one round of load: an open loop by arrival times, a closed loop by users."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter, process_time

from lathe.serving.loadtest.client import request_body, timed_request
from lathe.serving.loadtest.engine import RoundSpec
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.sample import Sample

DEAD_AFTER = 10
WARMUP_SEED = 1_000_003


@dataclass(frozen=True)
class _RequestSpec:
    """One request: its prompt, and the tokens that it asks for."""

    prompt: str
    output_tokens: int


@dataclass
class _Session:
    """The state that the requests of a round share."""

    spec: RoundSpec
    prompts: Iterator[str]
    start: float = field(default_factory=perf_counter)
    samples: list[Sample] = field(default_factory=list)
    unreachable: int = 0
    started: int = 0

    @property
    def dead(self) -> bool:
        """True once so many requests in a row found no server that the round ends."""
        return self.unreachable >= DEAD_AFTER

    def next_request(self, elapsed_s: float) -> _RequestSpec | None:
        """Returns the next request; None when the round is over."""
        load = self.spec.load
        over = (load.requests is not None and self.started >= load.requests) or (
            load.duration_s is not None and elapsed_s >= load.duration_s
        )
        if over or self.dead:
            return None
        self.started += 1
        return _RequestSpec(next(self.prompts), load.answer_tokens(self.started - 1))

    async def request(self, ask: _RequestSpec, due_s: float | None = None) -> None:
        http, target, load = self.spec.http, self.spec.target, self.spec.load
        body = request_body(target.model, ask.prompt, ask.output_tokens, load.endpoint)
        sample = await timed_request(http, target, load.endpoint, body, self.start, load.timeout_s)
        sample.asked_tokens = ask.output_tokens
        if due_s is not None:
            sample.late_s = sample.sent_s - due_s
        self.unreachable = self.unreachable + 1 if sample.error_kind == "connect" else 0
        self.samples.append(sample)
        self.spec.on_done(sample)


async def run_round(spec: RoundSpec) -> Round:
    """Warms up, sends one round, and waits for the last answer."""
    await warm_up(spec)
    session = _Session(spec, spec.prompts(spec.seed))
    cpu = process_time()
    due = spec.load.due_times(spec.seed)
    await (_closed_loop(session) if due is None else _open_loop(session, due))
    reason = f"nothing answered {DEAD_AFTER} requests in a row" if session.dead else None
    session.samples.sort(key=lambda sample: sample.sent_s)
    return Round(session.samples, process_time() - cpu, reason)


async def warm_up(spec: RoundSpec) -> None:
    """Sends the requests that are not measured.

    If their chunks carry several tokens each, the server is asked to report running counts from then on.
    """
    load = spec.load
    if not load.warmup:
        return
    warm = replace(
        load,
        rate=None,
        trace=None,
        ramp_to=None,
        concurrency=load.concurrency or 1,
        requests=load.warmup,
        duration_s=None,
        warmup=0,
    )
    seed = spec.seed + WARMUP_SEED
    warmed = await run_round(RoundSpec(spec.http, spec.target, warm, spec.prompts, seed))
    if any(sample.ok and sample.output_tokens > len(sample.chunk_s) for sample in warmed.samples):
        spec.target.dialect.counting = True


async def _open_loop(session: _Session, due_times: Iterator[float]) -> None:
    async with asyncio.TaskGroup() as requests:
        for due_s in due_times:
            ask = session.next_request(due_s)
            if ask is None:
                return
            await asyncio.sleep(max(0.0, session.start + due_s - perf_counter()))
            requests.create_task(session.request(ask, due_s))


async def _closed_loop(session: _Session) -> None:
    async def user(joins_s: float) -> None:
        await asyncio.sleep(joins_s)
        while ask := session.next_request(perf_counter() - session.start):
            await session.request(ask)

    async with asyncio.TaskGroup() as users:
        for joins_s in session.spec.load.join_times():
            users.create_task(user(joins_s))
