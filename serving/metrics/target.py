"""Whether answers keep the latency that the artefact was compressed for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

RESULTS = ("kept", "missed")


class TargetCounter:
    """Counts what kept the target and what missed it; without a target nothing is counted. Thread-safe.

    A quantile of a histogram is only as fine as its buckets; these counts are exact.
    """

    def __init__(self, model: str, metric: str, target_ms: float | None, registry: CollectorRegistry) -> None:
        """`metric`: tpot or ttft, which every sequence has, or e2e, which every answered request has."""
        self._metric = metric
        self._seconds = None if target_ms is None else target_ms / 1000
        labels = ("model", "metric")
        target = Gauge(
            "lathe_target_seconds",
            "Latency that the model was compressed for.",
            labels,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        results = Counter(
            "lathe_target_results", "Latencies by target kept or not.", (*labels, "result"), registry=registry
        )
        if self._seconds is not None:
            target.labels(model, metric).set(self._seconds)
            self._results = {result: results.labels(model, metric, result) for result in RESULTS}

    def edge(self, metric: str) -> tuple[float, ...]:
        """The target as a bucket edge of the histogram of `metric`, in seconds, if it is about that."""
        return (self._seconds,) if self._seconds is not None and metric == self._metric else ()

    def observe(self, metric: str, seconds: float) -> None:
        if self._seconds is not None and metric == self._metric:
            self._results["kept" if seconds <= self._seconds else "missed"].inc()
