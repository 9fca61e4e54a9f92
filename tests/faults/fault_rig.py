"""Servers in processes of their own, clients that count what they see, and a book for the figures."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

NAME = "tiny"
ENGINE = os.environ.get("FAULTS_ENGINE", "onnx")
ENDLESS = {
    "model": NAME,
    "prompt": "The dog",
    "max_tokens": 400,
    "ignore_eos": True,
    "stream": True,
    "logit_bias": {"70": 100},
}
"""Every event of its stream stands for one token."""
MIB = 2**20


class Figures:
    """What was measured, what was expected, and whether it held; written to a JSON file as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def of(self, fault: str) -> Iterator[Notes]:
        """The notes on one fault; at their end, AssertionError unless all held."""
        first = len(self.rows)
        yield Notes(self, fault)
        broken = [row["figure"] for row in self.rows[first:] if not row["held"]]
        assert not broken, f"{fault}: {'; '.join(broken)}"

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n")


class Notes:
    """The figures of one fault."""

    def __init__(self, book: Figures, fault: str) -> None:
        self._book = book
        self._fault = fault

    def fact(self, figure: str, value: Any) -> None:
        self._add(figure, value, "", held=True)

    def equal(self, figure: str, value: Any, expected: Any) -> None:
        self._add(figure, value, str(expected), held=value == expected)

    def within(self, figure: str, value: float, limit: float, least: float | None = None) -> None:
        """At most `limit`, and at least `least`."""
        expected = f"<= {limit:g}" if least is None else f"{least:g} to {limit:g}"
        self._add(figure, value, expected, held=value <= limit and (least is None or value >= least))

    def _add(self, figure: str, value: Any, expected: str, *, held: bool) -> None:
        shown = round(value, 3) if isinstance(value, float) else value
        row = {"fault": self._fault, "figure": figure, "value": shown, "expected": expected, "held": held}
        self._book.add(row)


@dataclass
class Served:
    """A running server, seen from outside."""

    url: str
    process: subprocess.Popen[str]

    @property
    def rss(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    @property
    def descriptors(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def metric(self, name: str, **labels: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise KeyError(name)

    def ended(self, outcome: str, endpoint: str = "completions") -> int:
        return int(self.metric("lathe_requests_total", endpoint=endpoint, outcome=outcome))

    def held(self) -> float:
        return self.metric("lathe_requests_running") + self.metric("lathe_requests_waiting")

    def status(self, path: str) -> int:
        return httpx.get(self.url + path, timeout=10).status_code


@contextmanager
def served(artefact: Path, *options: str, pace_ms: float = 0) -> Iterator[Served]:
    script = Path(__file__).with_name("paced_serve.py")
    command = [sys.executable, str(script), str(artefact), "--port", "0", "--threads", "1", "--json"]
    command += ["--engine", ENGINE]
    variables = os.environ | {"PACE_MS": str(pace_ms), "PYTHONPATH": str(script.parents[2])}
    process = subprocess.Popen(
        [*command, "--served-model-name", NAME, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=variables,
    )
    assert process.stdout is not None
    try:
        yield Served(json.loads(process.stdout.readline())["url"], process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Answer:
    """One stream as its client saw it; `error` an error event, `broken` an end without [DONE] or one."""

    status: int = 0
    times: list[float] = field(default_factory=list)
    retry_after: str | None = None
    done: bool = False
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    seconds: float = 0

    @property
    def tpot_ms(self) -> float:
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1) * 1000


async def stream(
    http: httpx.AsyncClient, body: dict[str, Any], leave_after: int | None = None, path: str = "completions"
) -> Answer:
    """`leave_after`: hang up after so many events."""
    answer, started = Answer(), time.perf_counter()
    async with http.stream("POST", f"/v1/{path}", json=body) as response:
        answer.status = response.status_code
        answer.retry_after = response.headers.get("retry-after")
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                answer.done = True
            elif line.startswith("data: "):
                note_event(answer, json.loads(line[6:]))
            if leave_after is not None and len(answer.times) >= leave_after:
                break
    answer.seconds = time.perf_counter() - started
    return answer


def note_event(answer: Answer, event: dict[str, Any]) -> None:
    answer.error = event.get("error", answer.error)
    answer.usage = event.get("usage") or answer.usage
    if event.get("choices"):
        answer.times.append(time.perf_counter())


def together(url: str, *jobs: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> list[Any]:
    """Run the jobs at once, on connections of their own."""

    async def run() -> list[Any]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
            return list(await asyncio.gather(*(job(http) for job in jobs), return_exceptions=True))

    return asyncio.run(run())


def seconds_until(condition: Callable[[], bool], limit: float = 30) -> float:
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() < started + limit, "the condition did not come true"
        time.sleep(0.005)
    return time.perf_counter() - started


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
