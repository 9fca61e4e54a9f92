"""Families of metrics that the models of one server have in common, each with its own labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MODEL = ("model",)
Target = tuple[str, float | None]
"""The metric of a target (tpot, ttft or e2e), and its milliseconds; None: there is no target."""


class Families:
    """Creates a family when it is asked for the first time, and returns the same one from then on.

    Attributes:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry, targets: Iterable[Target]) -> None:
        """Creates none; `targets` are those of all models, which become bucket edges of histograms."""
        self.registry = registry
        self._targets = tuple(targets)
        self._known: dict[str, Any] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = MODEL) -> Counter:
        """Returns a family of counters."""
        return self._get(name, lambda: Counter(name, help_text, labels, registry=self.registry))

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = MODEL, **how: Any) -> Gauge:
        """Returns a family of gauges; `how` is for several processes."""
        return self._get(name, lambda: Gauge(name, help_text, labels, registry=self.registry, **how))

    def histogram(self, name: str, help_text: str, edges_s: Iterable[float], metric: str = "") -> Histogram:
        """Returns a family of histograms in seconds, with the targets of a metric among the edges."""
        buckets = sorted({*edges_s, *self._edges(metric)})
        return self._get(
            name, lambda: Histogram(name, help_text, MODEL, registry=self.registry, buckets=buckets)
        )

    def _edges(self, metric: str) -> set[float]:
        return {ms / 1000 for one, ms in self._targets if one == metric and ms is not None}

    def _get(self, name: str, make: Any) -> Any:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]
