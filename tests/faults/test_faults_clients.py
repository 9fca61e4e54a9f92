"""Clients that leave, are too many, send slowly or do not read."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import pytest
from fault_rig import (
    ENDLESS,
    MIB,
    Answer,
    Figures,
    Served,
    percentile,
    seconds_until,
    served,
    stream,
    together,
)

pytestmark = pytest.mark.faults
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STREAMS = 50
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def test_a_storm_of_disconnects(artefact_dir: Path, figures: Figures):
    drains, extra = [], []
    leave = partial(stream, body=ENDLESS, leave_after=3)
    with served(artefact_dir, pace_ms=10) as server, figures.of("disconnect storm") as note:
        together(server.url, *[leave] * STREAMS)
        seconds_until(lambda: server.held() == 0)
        rss, fds = server.rss, server.descriptors
        left = server.ended("client_disconnect")
        for _ in range(ROUNDS):
            tokens = server.metric("lathe_generation_tokens_total")
            answers = together(server.url, *[leave] * STREAMS)
            drains.append(seconds_until(lambda: server.held() == 0))
            seen = sum(len(answer.times) for answer in answers)
            extra.append((server.metric("lathe_generation_tokens_total") - tokens - seen) / STREAMS)
            assert {answer.status for answer in answers} == {200}
        note.fact(f"rounds of {STREAMS} streams, each left after 3 events", ROUNDS)
        counted = server.ended("client_disconnect") - left
        note.equal("outcome=client_disconnect", counted, STREAMS * ROUNDS)
        note.within("s until nothing is held, worst round", max(drains), 1)
        note.within("tokens made after the client left, per stream", median(extra), 2)
        note.fact("the same in the worst round", max(extra))
        note.within("memory grown, %", (server.rss - rss) / rss * 100, 5)
        note.within("descriptors more", server.descriptors - fds, 0)


def test_ten_times_the_capacity(artefact_dir: Path, figures: Figures):
    body = ENDLESS | {"max_tokens": 100}
    options = ("--max-batch", "4", "--max-queue", "4")
    with served(artefact_dir, *options, pace_ms=20) as server, figures.of("10x overload") as note:
        calm = together(server.url, *[partial(stream, body=body)] * 8)
        answers: list[Answer] = together(server.url, *[partial(stream, body=body)] * 80)
        accepted = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        note.equal("accepted of 80, with 4 slots and a queue of 4", len(accepted), 8)
        note.equal("429 with retry-after", sum(a.retry_after is not None for a in refused), 72)
        note.equal("anything else", 80 - len(accepted) - len(refused), 0)
        note.equal("accepted and complete", sum(a.done and len(a.times) == 100 for a in accepted), 8)
        at_once = percentile([answer.seconds * 1000 for answer in refused], 99)
        note.fact("ms to a 429, p99, 80 connections at once", at_once)
        note.within("ms to a 429, p99, one by one while full", refusal_ms(server), 100)
        note.within("TPOT p95 against that at capacity", slowdown(accepted, calm), 1.2)


def slowdown(answers: list[Answer], calm: list[Answer]) -> float:
    return percentile([a.tpot_ms for a in answers], 95) / percentile([a.tpot_ms for a in calm], 95)


def refusal_ms(server: Served) -> float:
    """Of a server that 8 answers fill."""

    async def ask(http: httpx.AsyncClient) -> list[float]:
        while await asyncio.to_thread(server.held) < 8:
            await asyncio.sleep(0.02)
        answers = [await stream(http, ENDLESS) for _ in range(30)]
        assert {answer.status for answer in answers} == {429}
        return [answer.seconds * 1000 for answer in answers]

    return percentile(together(server.url, *[partial(stream, body=ENDLESS)] * 8, ask)[-1], 99)


async def dribble(_: httpx.AsyncClient, url: str, start: bytes) -> float:
    """Seconds until the server hangs up on one that sends a byte a second."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    started = time.perf_counter()
    writer.write(start)
    with suppress(ConnectionError):
        while True:
            writer.write(b"x")
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 1)
                break
    writer.close()
    return time.perf_counter() - started


def test_slow_loris(artefact_dir: Path, figures: Figures):
    bodies = HEAD + b"content-length: 1000\r\n\r\n"
    good = partial(stream, body=ENDLESS | {"max_tokens": 480})
    with served(artefact_dir, pace_ms=20) as server, figures.of("slow loris") as note:
        calm = together(server.url, *[good] * 4)
        fds = server.descriptors
        slow = [partial(dribble, url=server.url, start=start) for start in (HEAD, bodies) for _ in range(50)]
        seen = together(server.url, *slow, *[good] * 4)
        closed, answers = seen[:100], seen[100:]
        note.fact("connections, half with slow headers, half bodies", len(closed))
        note.within("s until closed, first", min(closed), 11, least=9)
        note.within("s until closed, last", max(closed), 11.5, least=9)
        note.equal("good streams meanwhile, complete of 4", sum(answer.done for answer in answers), 4)
        note.within("their TPOT p95 against without", slowdown(answers, calm), 1.1)
        seconds_until(lambda: server.descriptors <= fds)
        note.within("descriptors more", server.descriptors - fds, 0)


HEAVY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 490,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 20,
    "stream": True,
    "ignore_eos": True,
}
"""More than the socket's buffers hold."""


def stall(url: str, sockets: ExitStack) -> None:
    """Ask for a heavy stream and read nothing."""
    host, port = url.removeprefix("http://").split(":")
    client = sockets.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    body = json.dumps(HEAVY).encode()
    head = HEAD.replace(b"/completions", b"/chat/completions")
    client.sendall(head + f"content-length: {len(body)}\r\n\r\n".encode() + body)


def test_readers_that_stall(artefact_dir: Path, figures: Figures):
    good = partial(stream, body=ENDLESS)
    options = ("--max-batch", "12", "--write-timeout", "3")
    with (
        served(artefact_dir, *options, pace_ms=10) as server,
        figures.of("stalled readers") as note,
        ExitStack() as sockets,
    ):
        calm = together(server.url, *[good] * 4)
        rss = server.rss
        for _ in range(4):
            stall(server.url, sockets)
        answers = together(server.url, *[good] * 4)
        grown = (server.rss - rss) / MIB
        left = seconds_until(lambda: server.held() == 0, 60)
        closed = server.ended("client_disconnect", "chat")
        note.equal("stalled closed after --write-timeout 3, of 4", closed, 4)
        note.fact("s after the good ones until all slots are free", left)
        note.within("MiB of memory for them", grown, 40)
        note.equal("good streams meanwhile, complete of 4", sum(answer.done for answer in answers), 4)
        note.fact("their TPOT p95 against without (12 in the batch, not 4)", slowdown(answers, calm))
