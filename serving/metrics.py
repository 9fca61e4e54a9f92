"""Prometheus metrics of one server: its own registry, names that begin with `lathe_`, bounded labels."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.artefact import Artefact
from serving.engines.base import Backend

TOKEN_EDGES_MS = (
    1,
    2,
    3,
    5,
    7.5,
    10,
    12.5,
    15,
    20,
    25,
    30,
    35,
    40,
    50,
    75,
    100,
    150,
    200,
    300,
    500,
    1000,
    2500,
)
REQUEST_EDGES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
RATE_WINDOW_S = 10
OUTCOMES = ("ok", "client_disconnect", "rejected", "invalid", "error")

Endpoint = Literal["completions", "chat"]
Outcome = Literal["ok", "client_disconnect", "rejected", "invalid", "error"]


class Metrics:
    """The observer of the engine and of the API. Thread-safe."""

    def __init__(self, model: str, target_ms: float | None = None) -> None:
        """`target_ms` becomes a bucket edge of the per-token histograms, so that it can be verified."""
        self.registry = CollectorRegistry()
        self._model = model
        self._rate = TokenRate()
        edges_s = sorted({edge / 1000 for edge in (*TOKEN_EDGES_MS, *([target_ms] if target_ms else []))})
        self._requests = Counter(
            "lathe_requests",
            "Requests by how they ended.",
            ("model", "endpoint", "outcome"),
            registry=self.registry,
        )
        for endpoint in ("completions", "chat"):
            for outcome in OUTCOMES:
                self._requests.labels(model, endpoint, outcome)
        self._prompt_tokens = self._counter("lathe_prompt_tokens", "Prompt tokens read.")
        self._generation_tokens = self._counter("lathe_generation_tokens", "Tokens generated.")
        self._ttft = self._histogram(
            "lathe_time_to_first_token_seconds", "Arrival to first token.", REQUEST_EDGES_S
        )
        self._itl = self._histogram(
            "lathe_inter_token_latency_seconds", "Gaps between tokens of a sequence.", edges_s
        )
        self._tpot = self._histogram(
            "lathe_time_per_output_token_seconds",
            "Mean time per token after the first, by sequence.",
            edges_s,
        )
        self._duration = self._histogram(
            "lathe_request_duration_seconds", "Arrival to end of the answer.", REQUEST_EDGES_S
        )
        self._queued = self._histogram(
            "lathe_queue_seconds", "Arrival to first prompt token.", REQUEST_EDGES_S
        )
        self._gauge(
            "lathe_generation_tokens_per_second", f"Tokens generated in {RATE_WINDOW_S} s."
        ).set_function(self._rate.per_second)
        self.registry.register(GpuMemory())
        ProcessCollector(registry=self.registry)

    def watch(self, backend: Backend, artefact: Artefact, engine: str) -> None:
        """Export the state of the backend, read at every scrape."""
        gauges = {
            "lathe_requests_running": ("Sequences in a slot.", lambda: backend.running),
            "lathe_requests_waiting": ("Sequences admitted, not in a slot yet.", lambda: backend.waiting),
            "lathe_kv_cache_usage_ratio": ("Share of the KV cache in use.", lambda: backend.kv_cache_usage),
            "lathe_backend_up": ("1 while the engine answers.", lambda: backend.healthy),
            "lathe_model_weight_bytes": ("Bytes of the weights.", lambda: backend.weight_bytes),
        }
        for name, (help_text, read) in gauges.items():
            self._gauge(name, help_text).set_function(read)
        labels = {
            "model": self._model,
            "backend": engine,
            "variant": "compressed" if artefact.compressed else "dense",
            "target_latency_ms": "" if artefact.target_ms is None else f"{artefact.target_ms:g}",
            "digest": artefact.digest,
        }
        Gauge("lathe_model_info", "What is served.", tuple(labels), registry=self.registry).labels(
            **labels
        ).set(1)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def admitted(self, queued: float) -> None:
        self._queued.observe(queued)

    def prompt(self, tokens: int) -> None:
        self._prompt_tokens.inc(tokens)

    def first_token(self, since_arrival: float) -> None:
        self._ttft.observe(since_arrival)
        self._token()

    def next_token(self, since_last: float) -> None:
        self._itl.observe(since_last)
        self._token()

    def finished(self, per_token: float | None) -> None:
        if per_token is not None:
            self._tpot.observe(per_token)

    def request(self, endpoint: Endpoint, outcome: Outcome, seconds: float) -> None:
        """A request has ended; durations are kept for answered ones only."""
        self._requests.labels(self._model, endpoint, outcome).inc()
        if outcome == "ok":
            self._duration.observe(seconds)

    def _token(self) -> None:
        self._generation_tokens.inc()
        self._rate.add()

    def _counter(self, name: str, help_text: str) -> Any:
        return Counter(name, help_text, ("model",), registry=self.registry).labels(self._model)

    def _gauge(self, name: str, help_text: str) -> Any:
        return Gauge(name, help_text, ("model",), registry=self.registry).labels(self._model)

    def _histogram(self, name: str, help_text: str, edges_s: Iterable[float]) -> Any:
        family = Histogram(name, help_text, ("model",), registry=self.registry, buckets=tuple(edges_s))
        return family.labels(self._model)


class TokenRate:
    """Tokens per second over the last `RATE_WINDOW_S` seconds, counted in tenths of a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: deque[tuple[int, int]] = deque()

    def add(self) -> None:
        tenth = int(time.monotonic() * 10)
        with self._lock:
            if self._counts and self._counts[-1][0] == tenth:
                tenth, count = self._counts.pop()
                self._counts.append((tenth, count + 1))
            else:
                self._counts.append((tenth, 1))
            self._forget(tenth)

    def per_second(self) -> float:
        with self._lock:
            self._forget(int(time.monotonic() * 10))
            return sum(count for _, count in self._counts) / RATE_WINDOW_S

    def _forget(self, now: int) -> None:
        while self._counts and self._counts[0][0] <= now - 10 * RATE_WINDOW_S:
            self._counts.popleft()


class GpuMemory(Collector):
    """GPU memory by device and scope through NVML; absent, not zero, on machines without a GPU."""

    def __init__(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no library, no driver, no permission: all mean that there is nothing to report
            self._nvml = None
        else:
            self._nvml = pynvml

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self._nvml is None:
            return
        family = self._family()
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            device_bytes = self._nvml.nvmlDeviceGetMemoryInfo(handle).used
            family.add_metric([str(index), "device"], device_bytes)
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    family.add_metric([str(index), "process"], process.usedGpuMemory)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "lathe_gpu_memory_used_bytes", "GPU memory in use.", labels=("device", "scope")
        )
