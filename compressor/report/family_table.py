"""The table of a family that the terminal shows: widths by layer of every subnet, then what each takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lathe.artefact.family import FAMILY, read_family
from lathe.artefact.manifest import read_json
from lathe.artefact.report_format import Report, served_weights
from lathe.compressor.report.domain_table import print_domains
from lathe.compressor.report.page import read_report
from lathe.compressor.report.wording import channels


def print_family(directory: Path, console: Console) -> None:
    """Prints the subnets of a family beside each other.

    Raises:
        UserError: the family or one of its reports cannot be read.
    """
    family = read_family(directory)
    reports = {plan.name: read_report(family.directory(plan)) for plan in family.plans}
    console.print(_widths(reports))
    console.print(_measured(reports, {plan.name: plan.loss_increase for plan in family.plans}))
    print_domains(read_json(directory / FAMILY), console)


def _widths(reports: Mapping[str, Report]) -> Table:
    title = "kept widths, layer by layer: query heads / KV heads, FFN channels"
    table = Table("layer", title=title, title_justify="left")
    for name in ("dense", *reports):
        table.add_column(name, justify="right")
    dense = _width(next(iter(reports.values()))["dense_layer"])
    for index, layers in enumerate(zip(*(report["layers"] for report in reports.values()), strict=True)):
        table.add_row(str(index), dense, *map(_width, layers))
    return table


def _width(layer: Mapping[str, Any]) -> str:
    heads = f"{layer['query_heads']}/{layer['kv_heads']}" if layer["kv_heads"] else "-"
    return f"{heads}, {channels(layer) if layer['ffn'] else '-'}"


def _measured(reports: Mapping[str, Report], increases: Mapping[str, float | None]) -> Table:
    some = next(iter(reports.values()))
    table = Table(title=f"{some['model']['name']}: the subnets of the family", title_justify="left")
    table.add_column("")
    for name in reports:
        table.add_column(name, justify="right")
    for name, cells in _rows(reports, increases):
        if any(cells):
            table.add_row(name, *cells)
    return table


def _rows(
    reports: Mapping[str, Report], increases: Mapping[str, float | None]
) -> Iterator[tuple[str, list[str]]]:
    """Yields what is measured, with one cell for each subnet."""
    latencies = [report["latency"] for report in reports.values()]
    metric = latencies[0]["metric"]
    for title, name in (("target", "target_ms"), ("predicted", "predicted_ms"), ("measured", "measured_ms")):
        yield f"{title} {metric} (ms)", [_number(latency[name]) for latency in latencies]  # type: ignore[literal-required]
    speedups = [latency["speedup"] for latency in latencies]
    yield "faster than dense", [f"{speedup:.2f}x" if speedup else "" for speedup in speedups]
    yield "loss increase (nats/token)", [_number(increases[name]) for name in reports]
    yield "parameters (M)", [f"{r['parameters']['subnet'] / 1e6:.1f}" for r in reports.values()]
    yield "weights (MiB)", [f"{served_weights(r)['subnet'] / 2**20:.1f}" for r in reports.values()]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
