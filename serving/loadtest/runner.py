"""One round of load: open loop by arrival times, closed loop by workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter, process_time

from lathe.serving.loadtest.client import request_body, timed_request
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.round_spec import Assignment
from lathe.serving.loadtest.sample import Sample

DEAD_AFTER = 10
WARMUP_SEED = 1_000_003


@dataclass(frozen=True)
class _Ask:
    """What one request asks for."""

    prompt: str
    output_tokens: int


@dataclass
class _Session:
    """What the requests of a round share."""

    assigned: Assignment
    prompts: Iterator[str]
    start: float = field(default_factory=perf_counter)
    samples: list[Sample] = field(default_factory=list)
    unreachable: int = 0
    started: int = 0

    @property
    def dead(self) -> bool:
        """Nothing has answered for so long that more requests would only be more of the same error."""
        return self.unreachable >= DEAD_AFTER

    def next_ask(self, elapsed_s: float) -> _Ask | None:
        """Take the next request's place in the round; None when the round is over."""
        load = self.assigned.load
        over = (load.requests is not None and self.started >= load.requests) or (
            load.duration_s is not None and elapsed_s >= load.duration_s
        )
        if over or self.dead:
            return None
        self.started += 1
        return _Ask(next(self.prompts), load.answer_tokens(self.started - 1))

    async def request(self, ask: _Ask, due_s: float | None = None) -> None:
        http, target, load = self.assigned.http, self.assigned.target, self.assigned.load
        body = request_body(target.model, ask.prompt, ask.output_tokens, load.endpoint)
        sample = await timed_request(http, target, load.endpoint, body, self.start, load.timeout_s)
        sample.asked_tokens = ask.output_tokens
        if due_s is not None:
            sample.late_s = sample.sent_s - due_s
        self.unreachable = self.unreachable + 1 if sample.error_kind == "connect" else 0
        self.samples.append(sample)
        self.assigned.on_done(sample)


async def drive(assigned: Assignment) -> Round:
    """Warm up, then send one round and wait for the last answer."""
    await warm_up(assigned)
    session = _Session(assigned, assigned.prompts(assigned.seed))
    cpu = process_time()
    due = assigned.load.due_times(assigned.seed)
    await (_closed_loop(session) if due is None else _open_loop(session, due))
    reason = f"nothing answered {DEAD_AFTER} requests in a row" if session.dead else None
    session.samples.sort(key=lambda sample: sample.sent_s)
    return Round(session.samples, process_time() - cpu, reason)


async def warm_up(assigned: Assignment) -> None:
    """Send the requests that are not measured. They tell whether chunks carry several tokens each, which the
    server is then asked to count.
    """
    load = assigned.load
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
    seed = assigned.seed + WARMUP_SEED
    warmed = await drive(Assignment(assigned.http, assigned.target, warm, assigned.prompts, seed))
    if any(sample.ok and sample.output_tokens > len(sample.chunk_s) for sample in warmed.samples):
        assigned.target.dialect.counting = True


async def _open_loop(session: _Session, due_times: Iterator[float]) -> None:
    async with asyncio.TaskGroup() as requests:
        for due_s in due_times:
            ask = session.next_ask(due_s)
            if ask is None:
                return
            await asyncio.sleep(max(0.0, session.start + due_s - perf_counter()))
            requests.create_task(session.request(ask, due_s))


async def _closed_loop(session: _Session) -> None:
    async def user(joins_s: float) -> None:
        await asyncio.sleep(joins_s)
        while ask := session.next_ask(perf_counter() - session.start):
            await session.request(ask)

    async with asyncio.TaskGroup() as users:
        for joins_s in session.assigned.load.join_times():
            users.create_task(user(joins_s))
