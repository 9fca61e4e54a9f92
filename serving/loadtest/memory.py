"""The memory of a server under load: resident bytes, weight bytes, GPU bytes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import psutil

from lathe.serving.loadtest.client import Target

SAMPLE_SECONDS = 0.25
SCRAPE_SECONDS = 1.0
LINE = re.compile(
    r"^(?P<name>process_resident_memory_bytes|lathe_model_weight_bytes|lathe_gpu_memory_used_bytes)"
    r"(?:\{(?P<labels>[^}]*)\})?\s+(?P<value>\S+)",
    re.MULTILINE,
)


@dataclass
class Memory:
    """The highest bytes seen so far; None where the server does not report them."""

    peak_rss_bytes: int | None = None
    model_weight_bytes: int | None = None
    gpu_memory_used_bytes: int | None = None

    def note(self, rss: int | None = None, weights: int | None = None, gpu: int | None = None) -> None:
        self.peak_rss_bytes = _highest(self.peak_rss_bytes, rss)
        self.model_weight_bytes = _highest(self.model_weight_bytes, weights)
        self.gpu_memory_used_bytes = _highest(self.gpu_memory_used_bytes, gpu)

    def as_json(self) -> dict[str, int]:
        """Returns the figures that are known."""
        return {name: value for name, value in vars(self).items() if value is not None}


@contextlib.asynccontextmanager
async def watched(
    memory: Memory, http: httpx.AsyncClient, target: Target, pid: int | None
) -> AsyncIterator[None]:
    """Keeps `memory` up to date while the body runs.

    With `pid`, a server started here, resident memory is summed over its process tree; otherwise
    it is what the server's own /metrics says.
    """
    processes = process_tree(pid) if pid is not None else []
    watchers = [asyncio.create_task(_watch_metrics(memory, http, target, own=pid is not None))]
    if processes:
        watchers.append(asyncio.create_task(_watch_processes(memory, processes)))
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        memory.note(rss=resident_bytes(processes))
        await _scrape(memory, http, target, own=pid is not None)


def process_tree(pid: int) -> list[psutil.Process]:
    """Returns the process and its descendants; none when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident_bytes(processes: list[psutil.Process]) -> int | None:
    """Returns their resident bytes together (shared pages count once for each); None when all are gone."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total or None


def read_metrics(text: str) -> Memory:
    """Reads the three figures from a Prometheus page.

    GPU bytes are the process's own where the page tells them apart from the whole device's.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for line in LINE.finditer(text):
        with contextlib.suppress(ValueError, OverflowError):
            found.setdefault(line["name"], []).append((line["labels"] or "", int(float(line["value"]))))
    gpu = found.get("lathe_gpu_memory_used_bytes", [])
    own = [entry for entry in gpu if 'scope="process"' in entry[0]]
    return Memory(
        _total(found.get("process_resident_memory_bytes", [])),
        _total(found.get("lathe_model_weight_bytes", [])),
        _total(own or gpu),
    )


async def _watch_processes(memory: Memory, processes: list[psutil.Process]) -> None:
    while True:
        memory.note(rss=resident_bytes(processes))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _watch_metrics(memory: Memory, http: httpx.AsyncClient, target: Target, own: bool) -> None:
    while await _scrape(memory, http, target, own):
        await asyncio.sleep(SCRAPE_SECONDS)


async def _scrape(memory: Memory, http: httpx.AsyncClient, target: Target, own: bool) -> bool:
    """Reads /metrics once; returns whether there is one."""
    try:
        answer = await http.get(f"{target.url}/metrics", headers=target.headers(), timeout=5.0)
    except httpx.HTTPError:
        return False
    if answer.status_code != 200:
        return False
    page = read_metrics(answer.text)
    memory.note(None if own else page.peak_rss_bytes, page.model_weight_bytes, page.gpu_memory_used_bytes)
    return True


def _total(entries: list[tuple[str, int]]) -> int | None:
    return sum(value for _, value in entries) if entries else None


def _highest(a: int | None, b: int | None) -> int | None:
    return max((value for value in (a, b) if value is not None), default=None)
