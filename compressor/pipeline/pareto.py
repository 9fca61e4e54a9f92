"""The whole front of quality against latency, as plans: every budget out of one table of damages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.atomic_files import publish_directory, write_bytes, write_json
from lathe.artefact.plan import Plan
from lathe.compressor.compute.device import out_of_memory_as_user_error
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers.start import workers_at
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.pipeline.calibrate import prepare
from lathe.compressor.pipeline.inputs import resume
from lathe.compressor.pipeline.latency_loop import LatencyLoop
from lathe.compressor.pipeline.memory_estimate import kept
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult, preflight
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.report.page.front import standalone
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.space import Constraint, parameter_constraint

FORMAT = "lathe-front/1"
_POINTS = 24


@dataclass(frozen=True)
class Point:
    """A plan, what the table says it takes, and the sum of its blocks' damages, each alone: KL in nats per
    token before the last reform.
    """

    plan: Plan
    predicted_ms: float
    damage: float

    def to_json(self, card: PreflightResult, file: str) -> dict[str, Any]:
        shape = card.source.shape
        return {
            "plan": file,
            "predicted_ms": self.predicted_ms,
            "damage": self.damage,
            "decoder_parameters_kept": shape.kept(self.plan),
            "weight_bytes": shape.weight_bytes(self.plan, card.source.dtype.itemsize),
            "kv_bytes_per_token": shape.kv_bytes_per_token(self.plan, 4),
        }


def write_front(options: Options, progress: Progress) -> dict[str, Any]:
    """Plans for about two dozen latencies from the floor to dense, into the output directory, with a plot.

    Raises:
        UserError: bad input, before anything is read.
    """
    card = preflight(options, progress)
    with (
        kept(options.memory_limit),
        out_of_memory_as_user_error(options.where),
        closing(RunDirectory(options.out)) as run,
        workers_at(options.place, progress) as workers,
    ):
        resume(options, card, run, progress)
        prepared = prepare(options, card, run, progress, workers)
        search = Searcher(options, card, prepared, run, progress)
        table = LatencyLoop(options, card, search, prepared.key, run, progress).table
        assert table is not None, "a front is timed"
        damage = search.damages()
        points = [
            Point(plan, table.predict(plan), total(card.space, damage, plan))
            for plan in plans_along(card, table, damage)
        ]
        staged = run.fresh("front")
        document = _write(staged, card, table, points)
        publish_directory(staged, options.out)
        run.remove()
    return document


def plans_along(card: PreflightResult, table: LatencyTable | None, damage: np.ndarray) -> Iterator[Plan]:
    """The best plans of evenly spaced latencies (without a table: shares of the decoder's parameters),
    cheapest first; of equal ones the first.
    """
    ends = (card.space.smallest, card.source.shape.dense_plan)
    floor, dense = map(table.predict if table else card.source.shape.kept, ends)
    seen: set[Plan] = set()
    for limit in np.linspace(floor, dense, _POINTS + 1)[1:]:
        plan = solve(card.space, damage, [*card.constraints, _budget(card, table, float(limit))])
        if plan is None or plan in seen or not has_attention(plan):
            continue
        seen.add(plan)
        yield plan


def _budget(card: PreflightResult, table: LatencyTable | None, limit: float) -> Constraint:
    if table:
        return table.constraint(card.space, limit)
    return parameter_constraint(card.space, card.source.shape, limit)


def _write(
    directory: Path, card: PreflightResult, table: LatencyTable, points: list[Point]
) -> dict[str, Any]:
    (directory / "plans").mkdir()
    rows = []
    for number, point in enumerate(points, 1):
        file = f"plans/{number:02d}.json"
        write_json(directory / file, point.plan.to_json())
        rows.append(point.to_json(card, file))
    document = {
        "format": FORMAT,
        "model": card.source.name,
        "workload": {
            "metric": table.workload.metric,
            "batch_size": table.workload.batch_size,
            "context": table.workload.context,
        },
        "machine": table.fingerprint,
        "estimate": table.estimate,
        "dense_ms": table.predict(card.source.shape.dense_plan),
        "unit": "KL in nats per token, summed over blocks cut alone, before the last reform",
        "points": rows,
    }
    write_json(directory / "front.json", document)
    title = f"{card.source.name}: {table.workload.metric}, {table.estimate or 'measured table'}"
    curve = [(p.predicted_ms, p.damage) for p in points]
    write_bytes(directory / "front.svg", standalone(title, curve).encode())
    return document
