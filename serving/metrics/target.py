"""Counts whether answers meet the latency that the artefact was compressed for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

RESULTS = ("kept", "missed")


class TargetCounter:
    """Counts what met the target and what missed it; counts nothing without a target. Thread-safe.

    A quantile of a histogram is only as fine as its buckets; these counts are exact.
    """

    def __init__(self, model: str, metric: str, target_ms: float | None, registry: CollectorRegistry) -> None:
        """Creates the counter.

        Args:
            model: the label.
            metric: tpot or ttft, of every sequence, or e2e, of every answered request.
            target_ms: None: nothing is counted.
            registry: where the counters are registered.
        """
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
        """Returns the target in seconds, a bucket edge of its metric's histogram; empty for others."""
        return (self._seconds,) if self._seconds is not None and metric == self._metric else ()

    def observe(self, metric: str, seconds: float) -> None:
        if self._seconds is not None and metric == self._metric:
            self._results["kept" if seconds <= self._seconds else "missed"].inc()
