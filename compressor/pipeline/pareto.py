"""The Pareto front of quality against latency: plans for all budgets from one table of sensitivities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.atomic_files import publish_directory, write_bytes, write_json
from lathe.artefact.plan import BLOCK_KINDS, ModelShape, Plan
from lathe.artefact.report_format import Front, FrontPoint
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.latency_loop import LatencyLoop
from lathe.compressor.pipeline.open_run import open_run
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.pipeline.served_memory import cache_value_bytes
from lathe.compressor.report.page.front import standalone
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.space import Constraint, parameter_constraint

FORMAT = "lathe-front/1"
_POINTS = 24
_UNROUNDED_BITS = 32
_UNIT = "KL in nats per token, summed over blocks pruned alone, before the final reconstruction"


@dataclass(frozen=True)
class Point:
    """A plan on the front.

    Attributes:
        plan: The plan.
        predicted_ms: Its latency by the table.
        sensitivity: The sum of its blocks' sensitivities, each pruned alone: KL in nats per token.
    """

    plan: Plan
    predicted_ms: float
    sensitivity: float

    def to_json(self, preflight: PreflightResult, file: str, cache_bytes: int) -> dict[str, Any]:
        """Returns the point as the document has it; `file` is its plan's, `cache_bytes` a cached value's."""
        shape = preflight.source.shape
        return {
            "plan": file,
            "predicted_ms": self.predicted_ms,
            "damage": self.sensitivity,
            "decoder_parameters_kept": shape.kept(self.plan),
            "weight_bytes": shape.weight_bytes(self.plan, preflight.source.dtype.itemsize),
            "kv_bytes_per_token": shape.kv_bytes_per_token(self.plan, cache_bytes),
            **({"bits_per_weight": mean_bits(shape, self.plan)} if preflight.mixed else {}),
        }


def write_front(options: CompressOptions, progress: Progress) -> dict[str, Any]:
    """Writes plans for about two dozen latencies from the floor to dense, with a plot.

    Returns:
        The document that was written into the output directory.

    Raises:
        UserError: the input is bad, which is found before anything is read.
    """
    preflight = run_preflight(options, progress)
    with open_run(options, preflight, progress) as context:
        calibration = calibrate(context)
        search = Searcher(context, calibration)
        table = LatencyLoop(context, search, calibration.key).table
        assert table is not None, "a front is timed"
        sensitivities = search.sensitivities()
        points = [
            Point(plan, table.predict(plan), total(preflight.choices, sensitivities, plan))
            for plan in plans_along(preflight, table, sensitivities)
        ]
        directory = context.run_dir.fresh("front")
        cache_bytes = cache_value_bytes(options, preflight.source)
        document = _write(directory, preflight, table, points, cache_bytes)
        publish_directory(directory, options.out)
        context.run_dir.remove()
    return document


def tradeoff(context: RunContext, search: Searcher, table: LatencyTable | None, chosen: Plan) -> Front | None:
    """Returns what other budgets would have given: the front, and the chosen plan.

    A cost is milliseconds by the table, or, without one, a share of the decoder's parameters. All
    sensitivities are in the trace already, so that nothing is evaluated again.

    Returns:
        Costs and sensitivities; None where the search measured no sensitivities.
    """
    preflight, sensitivities = context.preflight, search.known_sensitivities()
    if sensitivities is None:
        return None
    shape = preflight.source.shape

    def row(plan: Plan) -> FrontPoint:
        point: FrontPoint = {
            "cost": table.predict(plan) if table else shape.kept(plan),
            "damage": total(preflight.choices, sensitivities, plan),
            "kept": shape.kept(plan),
        }
        if preflight.mixed:
            point["bits_per_weight"] = mean_bits(shape, plan)
        return point

    return {
        "cost": "milliseconds" if table else "share of the decoder's parameters",
        "unit": _UNIT,
        "points": [row(plan) for plan in plans_along(preflight, table, sensitivities)],
        "chosen": row(chosen),
    }


def plans_along(
    preflight: PreflightResult, table: LatencyTable | None, sensitivities: np.ndarray
) -> Iterator[Plan]:
    """Yields the best plans of evenly spaced latencies, cheapest first, each once.

    Without a table, budgets are shares of the decoder's parameters.
    """
    shape, space = preflight.source.shape, preflight.choices
    floor, dense = map(table.predict if table else shape.kept, (space.smallest, shape.dense_plan))
    seen: set[Plan] = set()
    for limit in np.linspace(floor, dense, _POINTS + 1)[1:]:
        budget = _budget(preflight, table, float(limit))
        plan = solve(space, sensitivities, [*preflight.constraints, budget])
        if plan is None or plan in seen or not has_attention(plan):
            continue
        seen.add(plan)
        yield plan


def mean_bits(shape: ModelShape, plan: Plan) -> float:
    """Returns the mean bits of the decoder's parameters, without scales."""
    blocks = [
        (count(layer), layer.bits(kind) or _UNROUNDED_BITS)
        for kind, count in zip(BLOCK_KINDS, (shape.attention_parameters, shape.ffn_parameters), strict=True)
        for layer in plan
    ]
    return sum(count * bits for count, bits in blocks) / sum(count for count, _ in blocks)


def _budget(preflight: PreflightResult, table: LatencyTable | None, limit: float) -> Constraint:
    if table:
        return table.constraint(preflight.choices, limit)
    return parameter_constraint(preflight.choices, preflight.source.shape, limit)


def _write(
    directory: Path, preflight: PreflightResult, table: LatencyTable, points: list[Point], cache_bytes: int
) -> dict[str, Any]:
    """Writes the plans, the document and the plot; returns the document."""
    (directory / "plans").mkdir()
    rows = []
    for number, point in enumerate(points, 1):
        file = f"plans/{number:02d}.json"
        write_json(directory / file, point.plan.to_json())
        rows.append(point.to_json(preflight, file, cache_bytes))
    workload, name = table.workload, preflight.source.name
    document = {
        "format": FORMAT,
        "model": name,
        "workload": {
            "metric": workload.metric,
            "batch_size": workload.batch_size,
            "context": workload.context,
        },
        "machine": table.fingerprint,
        "estimate": table.estimate,
        "dense_ms": table.predict(preflight.source.shape.dense_plan),
        "unit": _UNIT,
        "points": rows,
    }
    write_json(directory / "front.json", document)
    title = f"{name}: {workload.metric}, {table.estimate or 'measured table'}"
    curve = [(p.predicted_ms, p.sensitivity) for p in points]
    write_bytes(directory / "front.svg", standalone(title, curve).encode())
    return document
