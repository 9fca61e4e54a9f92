"""Counts whether answers meet the latency that the artefact was compressed for."""

from __future__ import annotations

from lathe.serving.metrics.families import Families

RESULTS = ("kept", "missed")


class TargetCounter:
    """Counts what met the target and what missed it; counts nothing without a target. Thread-safe.

    A quantile of a histogram is only as fine as its buckets; these counts are exact.
    """

    def __init__(self, model: str, metric: str, target_ms: float | None, families: Families) -> None:
        """Creates the counter.

        Args:
            model: the label.
            metric: tpot or ttft, of every sequence, or e2e, of every answered request.
            target_ms: None: nothing is counted.
            families: what the counters belong to.
        """
        self._metric = metric
        self._seconds = None if target_ms is None else target_ms / 1000
        labels = ("model", "metric")
        target = families.gauge(
            "lathe_target_seconds",
            "Latency that the model was compressed for.",
            labels,
            multiprocess_mode="mostrecent",
        )
        results = families.counter(
            "lathe_target_results", "Latencies by target kept or not.", (*labels, "result")
        )
        if self._seconds is not None:
            target.labels(model, metric).set(self._seconds)
            self._results = {result: results.labels(model, metric, result) for result in RESULTS}

    def observe(self, metric: str, seconds: float) -> None:
        if self._seconds is not None and metric == self._metric:
            self._results["kept" if seconds <= self._seconds else "missed"].inc()
