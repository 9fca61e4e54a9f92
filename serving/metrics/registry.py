"""Prometheus metrics of one server: names that begin with `lathe_`, and bounded labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from prometheus_client import Counter, Histogram

from lathe.serving.backend import ServingBackend
from lathe.serving.metrics.exposition import Exposition
from lathe.serving.metrics.families import Families
from lathe.serving.metrics.rate import RATE_WINDOW_S, TokenRate
from lathe.serving.metrics.resident import resident_bytes
from lathe.serving.metrics.target import TargetCounter
from lathe.serving.served_model import ServedModel

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
GAUGES = {
    "lathe_requests_running": "Sequences being computed.",
    "lathe_requests_waiting": "Sequences waiting in the queue.",
    "lathe_kv_cache_usage_ratio": "Share of the KV cache in use.",
    "lathe_backend_up": "1 while the engine works.",
    "lathe_model_weight_bytes": "Bytes of the weights.",
    "lathe_dense_weight_bytes": "Bytes of the dense model's weights in the same types.",
    "lathe_kv_cache_bytes": "The most bytes for keys and values of running sequences.",
    "lathe_kv_cache_bytes_per_token": "Bytes of one token in the KV cache.",
    "lathe_dense_kv_cache_bytes_per_token": "Bytes of one token of the dense model in the KV cache.",
    "lathe_resident_memory_bytes": "Resident memory of all processes of this server.",
    "lathe_generation_tokens_per_second": f"Tokens generated per second, over the last {RATE_WINDOW_S} s.",
}
"""Gauges labelled by model, set by every engine; those of the dense model only where a report states them."""
PAGE_GAUGES = {
    "lathe_kv_cache_reserved_bytes": "Bytes of the KV cache that running sequences may come to take.",
    "lathe_kv_cache_resident_bytes": "Bytes that keys and values take now, cached prefixes included.",
}
"""Gauges of our own engines."""
MODEL_INFO = ("lathe_model_info", "The served model.")
ENDPOINTS = ("completions", "chat", "responses")
OUTCOMES = ("ok", "client_disconnect", "rejected", "invalid", "timeout", "error")

Endpoint = Literal["completions", "chat", "responses"]
Outcome = Literal["ok", "client_disconnect", "rejected", "invalid", "timeout", "error"]


def model_info(model: str, engine: str, artefact: ServedModel) -> dict[str, str]:
    """Returns the labels of `lathe_model_info`."""
    return {
        "model": model,
        "backend": engine,
        "variant": "compressed" if artefact.compressed else "dense",
        "target_latency_ms": "" if artefact.target_ms is None else f"{artefact.target_ms:g}",
        "digest": artefact.digest,
    }


class SequenceMetrics:
    """Counters and histograms of requests and of their sequences: the observer of an engine. Thread-safe."""

    def __init__(
        self, model: str, target_ms: float | None, families: Families, target_metric: str = "tpot"
    ) -> None:
        """Creates the metrics of a model, which has the target `target_ms`, if any."""
        self.rate = TokenRate()
        self.model = model
        self._families = families
        self._target = TargetCounter(model, target_metric, target_ms, families)
        token_edges_s = [edge / 1000 for edge in TOKEN_EDGES_MS]
        self._requests = self._request_counter()
        self._prompt_tokens = self._counter(
            "lathe_prompt_tokens", "Prompt tokens prefilled or found in the prefix cache."
        )
        self._generation_tokens = self._counter("lathe_generation_tokens", "Tokens generated.")
        self._asked = self._counter(
            "lathe_prefix_cache_queried_tokens", "Prompt tokens looked up in the prefix cache."
        )
        self._found = self._counter(
            "lathe_prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache."
        )
        self._ttft = self._histogram(
            "lathe_time_to_first_token_seconds", "Arrival to first token.", REQUEST_EDGES_S, "ttft"
        )
        self._itl = self._histogram(
            "lathe_inter_token_latency_seconds",
            "Time between two tokens of a sequence.",
            token_edges_s,
            "tpot",
        )
        self._tpot = self._histogram(
            "lathe_time_per_output_token_seconds",
            "Mean time per token after the first, by sequence.",
            token_edges_s,
            "tpot",
        )
        self._duration = self._histogram(
            "lathe_request_duration_seconds", "Arrival to end of the answer.", REQUEST_EDGES_S, "e2e"
        )
        self._queued = self._histogram(
            "lathe_queue_seconds", "Arrival to first prompt token.", REQUEST_EDGES_S
        )

    def _request_counter(self) -> Counter:
        """Returns the counter of requests, with every label of the model at zero."""
        labels = ("model", "endpoint", "outcome")
        counter = self._families.counter("lathe_requests", "Requests by outcome.", labels)
        for endpoint in ENDPOINTS:
            for outcome in OUTCOMES:
                counter.labels(self.model, endpoint, outcome)
        return counter

    def admitted(self, queued: float) -> None:
        self._queued.observe(queued)

    def prompt(self, tokens: int) -> None:
        self._prompt_tokens.inc(tokens)

    def prefix(self, asked: int, found: int) -> None:
        self._asked.inc(asked)
        self._found.inc(found)

    def first_token(self, since_arrival: float) -> None:
        self.began(since_arrival)
        self._token()

    def began(self, since_arrival: float) -> None:
        """Records the first token of a sequence, which is counted elsewhere."""
        self._ttft.observe(since_arrival)
        self._target.observe("ttft", since_arrival)

    def next_token(self, since_last: float) -> None:
        self._itl.observe(since_last)
        self._token()

    def finished(self, per_token: float | None) -> None:
        if per_token is not None:
            self._tpot.observe(per_token)
            self._target.observe("tpot", per_token)

    def request(self, endpoint: Endpoint, outcome: Outcome, seconds: float) -> None:
        """Records the end of a request; durations are recorded for answered ones only."""
        self._requests.labels(self.model, endpoint, outcome).inc()
        if outcome == "ok":
            self._duration.observe(seconds)
            self._target.observe("e2e", seconds)

    def _token(self) -> None:
        self._generation_tokens.inc()
        self.rate.add()

    def _counter(self, name: str, help_text: str) -> Counter:
        return self._families.counter(name, help_text).labels(self.model)

    def _histogram(self, name: str, help_text: str, edges_s: Iterable[float], metric: str = "") -> Histogram:
        return self._families.histogram(name, help_text, edges_s, metric).labels(self.model)


class Metrics(SequenceMetrics):
    """All metrics of one model of a server of ours.

    Attributes:
        exposition: where they are told; models of one server share it.
    """

    def __init__(
        self,
        model: str,
        target_ms: float | None = None,
        target_metric: str = "tpot",
        exposition: Exposition | None = None,
    ) -> None:
        """Creates the metrics; `exposition` None: one for this model alone."""
        self.exposition = exposition or Exposition([(target_metric, target_ms)])
        super().__init__(model, target_ms, self.exposition.families, target_metric)
        self._read_at_scrape("lathe_generation_tokens_per_second", self.rate.per_second)

    def watch(self, backend: ServingBackend, artefact: ServedModel, engine: str) -> None:
        """Exports the state of the backend, read at every scrape."""
        self._read_at_scrape("lathe_requests_running", lambda: backend.num_running)
        self._read_at_scrape("lathe_requests_waiting", lambda: backend.num_waiting)
        self._read_at_scrape("lathe_kv_cache_usage_ratio", lambda: backend.kv_cache_usage)
        self._read_at_scrape("lathe_backend_up", lambda: backend.healthy)
        self._read_at_scrape("lathe_model_weight_bytes", lambda: backend.weight_bytes)
        self._read_at_scrape("lathe_kv_cache_bytes", lambda: backend.kv_cache_bytes)
        self._read_at_scrape("lathe_kv_cache_bytes_per_token", lambda: backend.kv_bytes_per_token)
        if (times := artefact.dense_weights) is not None:
            self._read_at_scrape("lathe_dense_weight_bytes", lambda: times * backend.weight_bytes)
        if (more := artefact.dense_kv) is not None:
            self._read_at_scrape(
                "lathe_dense_kv_cache_bytes_per_token", lambda: more * backend.kv_bytes_per_token
            )
        pages = PAGE_GAUGES
        self._read_at_scrape("lathe_kv_cache_reserved_bytes", lambda: backend.kv_reserved_bytes, pages)
        self._read_at_scrape("lathe_kv_cache_resident_bytes", lambda: backend.kv_resident_bytes, pages)
        labels = model_info(self.model, engine, artefact) | {"prompts": backend.prompt_engine or engine}
        self._families.gauge(*MODEL_INFO, tuple(labels)).labels(**labels).set(1)

    def watch_process(self, backend: ServingBackend, name: str | None = None) -> None:
        """Exports what the process takes; under the name of the whole, where it serves several models."""
        self._read_at_scrape(
            "lathe_resident_memory_bytes", lambda: resident_bytes(backend.kv_prefix_bytes), model=name
        )

    def _read_at_scrape(
        self,
        name: str,
        read: Callable[[], float],
        gauges: Mapping[str, str] = GAUGES,
        model: str | None = None,
    ) -> None:
        self._families.gauge(name, gauges[name]).labels(model or self.model).set_function(read)
