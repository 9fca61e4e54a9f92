"""One server under the ramp: what was within limits, who answered, and at which loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.switch.setting import Sending
from lathe.artefact.family import Family
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.servers import served
from lathe.serving.loadtest.slo import Slo
from lathe.serving.metrics.switching import ACTIVE_SECONDS, SWITCHES

DENSE, SMALLEST, SWITCHING = "dense", "smallest", "switching"
KEPT = ("requests", "succeeded", "errors", "output_tokens_per_second", "duration_s", "ttft_ms", "tpot_ms")


def under_ramp(
    model: Path, options: Sequence[str], load: Load, slo: Slo, sending: Sending
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Serves a model and sends the ramp; returns its row, and the samples.

    Raises:
        UserError: the model cannot be served, or the server not be reached.
    """
    with served(model, extra=[*sending.serve_options, *options]) as server:
        system = run(server.url, load, setup=sending.setup, slo=slo)["systems"]["server"]
        switched = switching(httpx.get(f"{server.url}/metrics", timeout=10).text)
    row = {name: system[name] for name in KEPT} | {
        "within": system["slo"]["within"],
        "within_each": system["slo"]["within_each"],
        "answered_by": {name: found["requests"] for name, found in system["answered_by"].items()},
        **switched,
    }
    return row, [sample for one in system["rounds"] for sample in one["samples"]]


def switching(exposition: str) -> dict[str, Any]:
    """Returns the switches and the seconds of each subnet, of a server that switches."""
    found: dict[str, dict[str, float]] = {SWITCHES: {}, ACTIVE_SECONDS: {}}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")
            if name in found:
                found[name][sample.labels["subnet"]] = round(sample.value, 3)
    if not found[SWITCHES]:
        return {}
    return {"switches": found[SWITCHES], "active_s": found[ACTIVE_SECONDS]}


def mean_loss(answered_by: Mapping[str, int], family: Family, alone: float | None) -> float | None:
    """Returns the mean loss increase of what was answered; None where an increase is not known.

    Args:
        answered_by: requests by the name of a model; subnets of the family have theirs after a colon.
        family: what states the increases.
        alone: that of a model that is served alone.
    """
    increases = {plan.name: plan.loss_increase for plan in family.plans}
    total, weighed = 0, 0.0
    for name, count in answered_by.items():
        increase = increases.get(name.partition(":")[2]) if ":" in name else alone
        if increase is None:
            return None
        total, weighed = total + count, weighed + count * increase
    return weighed / total if total else None
