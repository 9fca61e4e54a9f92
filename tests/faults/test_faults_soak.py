"""Mixed load for a while: SOAK=20m for the long one."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fault_rig import ENDLESS, MIB, NAME, Figures, percentile, served, stream

pytestmark = pytest.mark.faults
UNITS = {"s": 1, "m": 60, "h": 3600}
SOAK = os.environ.get("SOAK", "30s")
CLIENTS = 8
BAD = [{"temperature": -1}, {"prompt": [10**6]}, {"nope": 1}, {"n": 10**9}, {"prompt": "x" * 10**5}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a", 1, None]}}}


class Load:
    """Clients that do one thing after another until the time is over."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._end = time.monotonic() + seconds
        self.statuses: Counter[int] = Counter()
        self.completion_tokens = 0
        self.left = 0
        self.scrapes: list[float] = []
        self.memory: list[tuple[float, int, int]] = []

    async def run(self, sample: Any) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as http:
            clients = [self._client(http, random.Random(seed)) for seed in range(CLIENTS)]
            await asyncio.gather(*clients, self._watch(http, sample))

    async def _client(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        acts = [self._stream, self._whole, self._json, self._leave, self._bad]
        while time.monotonic() < self._end:
            await rng.choice(acts)(http, rng)

    async def _stream(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        body = ENDLESS | {"max_tokens": rng.randint(1, 60), "stream_options": {"include_usage": True}}
        answer = await stream(http, body)
        self.statuses[answer.status] += 1
        self.completion_tokens += answer.usage["completion_tokens"] if answer.usage else 0

    async def _whole(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self._post(http, max_tokens=rng.randint(1, 60), n=rng.randint(1, 3), seed=rng.randint(0, 99))

    async def _json(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        format_ = SCHEMA if rng.random() < 0.5 else {"type": "json_object"}
        await self._post(http, max_tokens=30, response_format=format_)

    async def _post(self, http: httpx.AsyncClient, **body: Any) -> None:
        reply = await http.post("/v1/completions", json={"model": NAME, "prompt": "The fox"} | body)
        self.statuses[reply.status_code] += 1
        if reply.status_code == 200:
            self.completion_tokens += reply.json()["usage"]["completion_tokens"]

    async def _leave(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await stream(http, ENDLESS, leave_after=rng.randint(1, 5))
        self.left += 1

    async def _bad(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self._post(http, **rng.choice(BAD))

    async def _watch(self, http: httpx.AsyncClient, sample: Any) -> None:
        while time.monotonic() < self._end:
            started = time.perf_counter()
            (await http.get("/metrics")).raise_for_status()
            self.scrapes.append((time.perf_counter() - started) * 1000)
            self.memory.append((time.monotonic(), *sample()))
            await asyncio.sleep(0.5)


def more(samples: np.ndarray) -> float:
    return float(np.median(samples[-5:]) - np.median(samples[:5]))


def test_a_soak(artefact_dir: Path, figures: Figures):
    seconds = float(SOAK[:-1]) * UNITS[SOAK[-1]]
    with served(artefact_dir, pace_ms=2) as server, figures.of(f"soak of {SOAK}") as note:
        asyncio.run(Load(server.url, max(10, seconds / 10)).run(lambda: (server.rss, server.descriptors)))
        tokens, gone = server.metric("lathe_generation_tokens_total"), server.ended("client_disconnect")
        load = Load(server.url, seconds)
        asyncio.run(load.run(lambda: (server.rss, server.descriptors)))
        times, rss, descriptors = np.array(load.memory, dtype=float).T
        note.fact("requests", sum(load.statuses.values()) + load.left)
        note.equal("5xx", sum(count for status, count in load.statuses.items() if status >= 500), 0)
        noticed = server.ended("client_disconnect") - gone
        note.equal("clients that left, not counted as such", load.left - noticed, 0)
        made = server.metric("lathe_generation_tokens_total") - tokens
        unseen = (made - load.completion_tokens) / max(load.left, 1)
        note.within("tokens beyond those in usages, per client that left", unseen, 20, least=0)
        note.fact("MiB of memory", float(rss[-1]) / MIB)
        slope = float(np.polyfit(times, rss, 1)[0]) * 600 / MIB
        if seconds >= 600:
            note.within("MiB more in 10 minutes", slope, 1)
        else:
            note.within("MiB more at the end than at the start", more(rss) / MIB, 4)
        note.within("descriptors more at the end", more(descriptors), 4)
        note.within("ms to scrape /metrics, p99", percentile(load.scrapes, 99), 50)
        note.equal("status of ready", server.status("/health/ready"), 200)
