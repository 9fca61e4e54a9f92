"""Is a target kept? The product's closed loop on random weights, and an artefact timed anew beside dense."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint, open_config
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Status
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import SearchResult, methods
from lathe.compressor.search.space import Constraint, Space, make_space, parameter_constraint


@dataclass(frozen=True)
class Subject:
    """A shape on a backend under a workload, with a directory for what is measured once."""

    name: str
    model: Path
    backend: str
    workload: Workload
    threads: int | None
    work: Path

    def benchmark(self, progress: Progress) -> LatencyBenchmark:
        return LatencyBenchmark(
            open_config(str(self.model)), backends.get(self.backend), self.workload, self.threads, progress
        )


def sensitivities(space: Space, seed: int = 0) -> np.ndarray:
    """Made-up sensitivities, object array [blocks] of [levels].

    Blocks are of unequal worth, and the loss grows faster than what is pruned, so that plans are uneven as
    real ones are.
    """
    rng = random.Random(seed)
    table = np.empty(2 * space.layers, dtype=object)
    for block, (_, kind) in enumerate(space.blocks):
        count, worth = len(space.levels(kind)), rng.uniform(0.2, 1.0)
        table[block] = worth * np.linspace(0, 1, count) ** 2
    return table


def made_up_plan(source: Checkpoint, keep: float) -> Plan:
    """An uneven plan that keeps a share of the decoder's parameters, by made-up sensitivities.

    A random model's own mean nothing.

    Raises:
        UserError: no plan keeps so little.
    """
    space = make_space(source.shape)
    plan = solve(space, sensitivities(space), [parameter_constraint(space, source.shape, keep)])
    if plan is None:
        raise UserError(f"no plan of {source.name} keeps {keep:.0%}")
    return plan


def rows(subject: Subject, speedups: list[float], progress: Progress) -> Iterator[dict[str, Any]]:
    """A row per target: predicted, measured while solving, and the artefact timed anew at the end."""
    benchmark = subject.benchmark(progress)
    space = make_space(benchmark.source.shape)
    table = sensitivities(space)

    def search(constraints: list[Constraint]) -> SearchResult:
        plan = solve(space, table, constraints)
        if plan is None:
            raise UserError("the floor of this shape is above the target")
        return SearchResult(plan, [], 0.0, 0)

    for speedup in speedups:
        options = CompressOptions(
            model=str(subject.model),
            out=subject.work / f"{subject.name}-{subject.backend}",
            target_speedup=speedup,
            bits="16",
            latency_metric=subject.workload.metric,
            batch_size=subject.workload.batch_size,
            context=subject.workload.context,
            output_tokens=subject.workload.output_tokens,
            engine=subject.backend,
            export=("checkpoint", benchmark.backend.export),
            threads=subject.threads,
        )
        memory = memory_plan(options, benchmark.source)
        preflight = PreflightResult(
            benchmark.source, space, methods.get("lathe"), benchmark, [], memory=memory
        )
        with closing(RunDirectory(options.out)) as run_dir:
            context = RunContext(options, preflight, run_dir, progress)
            loop = LatencyLoop(context, search, f"bench {speedup}")
            made, iteration, status = loop.run(lambda found: _timed(benchmark, found.plan))
        yield _row(subject, loop, iteration, made.timing, speedup, status is Status.DONE)


@dataclass(frozen=True)
class _Timed:
    """A plan with random weights that stands for its artefact."""

    timing: Comparison


def _timed(benchmark: LatencyBenchmark, plan: Plan) -> _Timed:
    return _Timed(benchmark.compare(plan, title="verify: the artefact against dense"))


def _row(
    subject: Subject, loop: LatencyLoop, iteration: Iteration, timing: Comparison, speedup: float, met: bool
) -> dict[str, Any]:
    """Milliseconds as of the artefact's own measurement: the target is what dense takes there, divided."""
    dense = timing.dense.median
    target, measured = dense / speedup, dense * timing.ratio
    predicted = (loop.iterations[0].predicted_ms or 0.0) * loop.drift(timing)
    return {
        "model": subject.name,
        "backend": subject.backend,
        "metric": subject.workload.metric,
        "batch_size": subject.workload.batch_size,
        "context": subject.workload.context,
        "speedup": speedup,
        "dense_ms": dense,
        "target_ms": target,
        "predicted_ms": predicted,
        "measured_ms": measured,
        "measured_over_target": measured / target,
        "predicted_over_target": predicted / target,
        "first_plan_over_target": (loop.iterations[0].measured_ms or 0.0) / (loop.table_target_ms or 1.0),
        "rounds": len(loop.iterations),
        "met": met,
        "spread": timing.subnet.spread,
        "turns_ms": {"dense": timing.dense.repeats, "subnet": timing.subnet.repeats},
        "plan": iteration.plan.to_json()["layers"],
    }
