"""Metrics of a server of a family of subnets: what weights share, and switching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lathe.artefact.onnx.weight_sharing import WeightBytes
from lathe.serving.metrics.exposition import Exposition

SWITCHES = "lathe_subnet_switches"
ACTIVE_SECONDS = "lathe_subnet_active_seconds"
PRESSURE = "lathe_slo_pressure_ratio"
SUBNET_WEIGHTS = "lathe_subnet_weight_bytes"
FAMILY_WEIGHTS = "lathe_family_weight_bytes"
NAMES = (f"{SWITCHES}_total", f"{ACTIVE_SECONDS}_total", PRESSURE, SUBNET_WEIGHTS, FAMILY_WEIGHTS)
"""As they are scraped."""


@dataclass(frozen=True)
class SwitchFigures:
    """What a scrape tells of switching.

    Attributes:
        switches: how often each subnet became the one for new requests.
        active_s: for how many seconds each was.
        pressure: the largest share of a limit now.
    """

    switches: Mapping[str, int]
    active_s: Mapping[str, float]
    pressure: float


def tell_weights(exposition: Exposition, model: str, subnets: Mapping[str, WeightBytes], whole: int) -> None:
    """Adds the weights of a family with the name `model`: of each subnet, and of all, each byte once."""
    by_subnet = Gauge(
        SUBNET_WEIGHTS,
        "Bytes of a subnet's weight files, shared with another subnet or its own.",
        ("model", "subnet", "part"),
        registry=exposition.registry,
    )
    for subnet, found in subnets.items():
        by_subnet.labels(model, subnet, "own").set(found.own)
        by_subnet.labels(model, subnet, "shared").set(found.shared)
    of_all = Gauge(
        FAMILY_WEIGHTS,
        "Bytes of the weight files of all subnets, each byte once.",
        ("model",),
        registry=exposition.registry,
    )
    of_all.labels(model).set(whole)


class SwitchCollector(Collector):
    """Reads the figures at every scrape; `model` is the family's name."""

    def __init__(self, model: str, read: Callable[[], SwitchFigures]) -> None:
        self._model, self._read = model, read

    def describe(self) -> list[Metric]:
        """Returns the families without samples."""
        return list(_families())

    def collect(self) -> Iterator[Metric]:
        figures = self._read()
        switches, active, pressure = _families()
        for subnet, count in figures.switches.items():
            switches.add_metric((self._model, subnet), count)
        for subnet, seconds in figures.active_s.items():
            active.add_metric((self._model, subnet), seconds)
        pressure.add_metric((self._model,), figures.pressure)
        yield from (switches, active, pressure)


def _families() -> tuple[CounterMetricFamily, CounterMetricFamily, GaugeMetricFamily]:
    labels = ("model", "subnet")
    return (
        CounterMetricFamily(SWITCHES, "Times that a subnet became the one for new requests.", labels=labels),
        CounterMetricFamily(
            ACTIVE_SECONDS, "Seconds that a subnet was the one for new requests.", labels=labels
        ),
        GaugeMetricFamily(PRESSURE, "The largest share of a limit of --slo now.", labels=("model",)),
    )
