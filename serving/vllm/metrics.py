"""Our metrics in vLLM's registry, so that its `/metrics` shows both, with one API server or several.

With several, prometheus_client keeps every value in a file for each process and adds them up at a scrape;
values that are computed at the scrape do not pass through that, so a thread sets them every second.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import Any, Literal

import psutil
from prometheus_client import REGISTRY, Gauge

from lathe.serving.metrics.families import Families
from lathe.serving.metrics.gpu import (
    GPU_MEMORY,
    GPU_MEMORY_HELP,
    GPU_MEMORY_LABELS,
    GPU_TOTAL,
    GPU_TOTAL_HELP,
    Nvml,
)
from lathe.serving.metrics.registry import GAUGES, MODEL_INFO, SequenceMetrics
from lathe.serving.vllm.shared_state import ServedModelInfo, SharedState

SAMPLE_S = 1.0
SUMMED = ("lathe_generation_tokens_per_second",)
"""Gauges that are the sum of what the API servers see; the others are the same wherever they are read."""


class VllmMetrics(SequenceMetrics):
    """Metrics fed by the stat logger (sequences) and by the middleware (requests)."""

    def __init__(self, served: ServedModelInfo) -> None:
        families = Families(REGISTRY, [(served.target_metric, served.target_ms)])
        super().__init__(served.model, served.target_ms, families, served.target_metric)
        self._served = served
        self._counting = False
        self._nvml = Nvml()
        dense = {
            "lathe_dense_weight_bytes": served.dense_weights,
            "lathe_dense_kv_cache_bytes_per_token": served.dense_kv,
        }
        unknown = {name for name, times in dense.items() if times is None}
        self._own = {name: self._gauge(name, GAUGES[name]) for name in GAUGES.keys() - unknown}
        self._gpu = Gauge(GPU_MEMORY, GPU_MEMORY_HELP, GPU_MEMORY_LABELS, multiprocess_mode="livemostrecent")
        self._gpu_total = Gauge(GPU_TOTAL, GPU_TOTAL_HELP, ("device",), multiprocess_mode="livemostrecent")
        Gauge(*MODEL_INFO, tuple(served.info), multiprocess_mode="mostrecent").labels(**served.info).set(1)
        threading.Thread(target=self._sample_for_ever, daemon=True).start()

    def engine(self, running: int, waiting: int, kv_cache_usage: float) -> None:
        """Sets what the engine's scheduler reports of itself."""
        self._own["lathe_requests_running"].set(running)
        self._own["lathe_requests_waiting"].set(waiting)
        self._own["lathe_kv_cache_usage_ratio"].set(kv_cache_usage)

    def prompts_looked_up(self, asked: int, found: int) -> None:
        """Counts the tokens that vLLM looked up in its prefix cache since the last call, and the hits."""
        if self._counting:
            self.prefix(asked, found)

    def sizes(self, weight_itemsize: int, cache_itemsize: int, cache_tokens: int) -> None:
        """Sets the memory sizes.

        Args:
            weight_itemsize: bytes of a floating-point value of the weights.
            cache_itemsize: bytes of a value in the KV cache.
            cache_tokens: the number of tokens that fit into the KV cache.
        """
        served = self._served
        weights = served.values * weight_itemsize + served.other_bytes
        per_token = served.kv_values * cache_itemsize
        found: dict[str, float] = {
            "lathe_model_weight_bytes": weights,
            "lathe_kv_cache_bytes_per_token": per_token,
            "lathe_kv_cache_bytes": per_token * cache_tokens,
            "lathe_backend_up": 1,
        }
        if served.dense_weights is not None:
            found["lathe_dense_weight_bytes"] = weights * served.dense_weights
        if served.dense_kv is not None:
            found["lathe_dense_kv_cache_bytes_per_token"] = per_token * served.dense_kv
        for name, value in found.items():
            self._own[name].set(value)

    def count_from_now(self) -> None:
        """Starts to count: the warm-up is over, and clients ask from here on."""
        self._counting = True

    def step(self, stats: Any) -> None:
        """Records one step of the engine, from vLLM's `IterationStats`."""
        if not self._counting:
            return
        self.prompt(stats.num_prompt_tokens)
        self._generation_tokens.inc(stats.num_generation_tokens)
        self.rate.add(stats.num_generation_tokens)
        for seconds in stats.time_to_first_tokens_iter:
            self.began(seconds)
        for seconds in stats.inter_token_latencies_iter:
            self._itl.observe(seconds)
        for sequence in stats.finished_requests:
            self.admitted(sequence.queued_time)
            several = sequence.num_generation_tokens > 1
            self.finished(sequence.mean_time_per_output_token if several else None)

    def _sample_for_ever(self) -> None:
        wait = threading.Event()
        while True:
            self._sample()
            wait.wait(SAMPLE_S)

    def _sample(self) -> None:
        self._own["lathe_generation_tokens_per_second"].set(self.rate.per_second())
        processes = _processes()
        self._own["lathe_resident_memory_bytes"].set(sum(processes.values()))
        for device, scope, used in self._nvml.memory(processes.keys()):
            self._gpu.labels(device, scope).set(used)
        for device, total in self._nvml.totals():
            self._gpu_total.labels(device).set(total)

    def _gauge(self, name: str, help_text: str) -> Any:
        mode: Literal["livesum", "livemostrecent"] = "livesum" if name in SUMMED else "livemostrecent"
        gauge = Gauge(name, help_text, ("model",), registry=REGISTRY, multiprocess_mode=mode)
        return gauge.labels(self.model)


@lru_cache(1)
def vllm_metrics() -> VllmMetrics | None:
    """Returns this process's metrics, one per process; None in a vLLM that `lathe serve` did not start."""
    state = SharedState.here()
    return VllmMetrics(state.served()) if state else None


def _processes() -> dict[int, int]:
    """Returns resident bytes by process: API servers, engine cores and workers, which share a session."""
    session = os.getsid(0)
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found[process.pid] = process.memory_info().rss
        except (psutil.Error, OSError):
            continue
    return found
