"""One server under the ramp: what was within limits, who answered, and at which loss."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.switch.setting import Sending
from lathe.artefact.errors import UserError
from lathe.artefact.family import PLANS, Family, FamilyPlan, read_family, write_family
from lathe.artefact.linked_files import link
from lathe.artefact.manifest import MANIFEST
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.servers import served
from lathe.serving.loadtest.slo import Slo
from lathe.serving.metrics.switching import ACTIVE_SECONDS, SWITCHES

DENSE, SMALLEST, SWITCHING = "dense", "smallest", "switching"
KEPT = ("requests", "succeeded", "errors", "output_tokens_per_second", "duration_s", "ttft_ms", "tpot_ms")


def family_of_one(model: Path, directory: Path) -> Family:
    """Makes an artefact the only subnet of a family, so that it is served as the others are.

    Raises:
        UserError: it is no artefact.
    """
    if not (model / MANIFEST).is_file():
        raise UserError(f"{model} is not an artefact", "Export it: `lathe export MODEL --to onnx -o OUT`.")
    shutil.copytree(model, directory / PLANS / DENSE, copy_function=link_file)
    write_family(directory, [FamilyPlan(DENSE, f"{PLANS}/{DENSE}", loss_increase=0.0)])
    return read_family(directory)


def link_file(source: str, target: str) -> None:
    """As `copy_function` of `shutil.copytree`: a link, or a copy where there cannot be one."""
    link(Path(source), Path(target))


def under_ramp(
    family: Family, subnet: str | None, options: Sequence[str], load: Load, slo: Slo, sending: Sending
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Serves a family and sends the ramp to one subnet, or to the name of all; returns the row and samples.

    Raises:
        UserError: the family cannot be served, or the server not be reached.
    """
    with served(family.path, extra=[*sending.serve_options, *options]) as server:
        model = f"{server.model}:{subnet}" if subnet else server.model
        setup = replace(sending.setup, model=model)
        system = run(server.url, load, setup=setup, slo=slo)["systems"]["server"]
        switched = switching(httpx.get(f"{server.url}/metrics", timeout=10).text)
    row = {name: system[name] for name in KEPT} | {
        "within": system["slo"]["within"],
        "within_each": system["slo"]["within_each"],
        "answered_by": {name: found["requests"] for name, found in system["answered_by"].items()},
        "mean_loss": mean_loss(system["answered_by"], family),
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


def mean_loss(answered_by: Mapping[str, Mapping[str, Any]], family: Family) -> float | None:
    """Returns the mean loss increase of what was answered; None where an increase is not known.

    Args:
        answered_by: what a load test tells, by the names of models, which end with a colon and the subnet.
        family: what states the increases.
    """
    increases = {plan.name: plan.loss_increase for plan in family.plans}
    total, weighed = 0, 0.0
    for name, found in answered_by.items():
        increase = increases.get(name.rpartition(":")[2])
        if increase is None:
            return None
        total, weighed = total + found["requests"], weighed + found["requests"] * increase
    return weighed / total if total else None
