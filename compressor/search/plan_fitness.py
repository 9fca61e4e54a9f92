"""The fitness of whole plans, each measured once and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lathe.artefact.plan import Plan
from lathe.compressor.search.method import Problem


def plan_fitness(
    problem: Problem,
    evaluate: Callable[[tuple[Plan, int]], float],
    plans: Sequence[Plan],
    stage: int,
    called: str = "plan",
) -> Iterator[float]:
    """Yields the fitness of the widths of plans, from the trace or newly measured by the workers.

    Args:
        problem: The problem; its trace records every value with the plan's costs.
        evaluate: (widths, stage) -> fitness; it travels to workers, once if it is the same object every time.
        plans: The plans.
        stage: The number of the stage of the search, which says on how much text.
        called: What the trace calls these plans.
    """
    widths = [plan.unrounded for plan in plans]
    keys = [f"{called} {stage} {json.dumps(problem.space.indices(plan))}" for plan in widths]
    unknown = {k: p for p, k in zip(widths, keys, strict=True) if not problem.trace.knows(k)}
    found = problem.workers.map(evaluate, [(plan, stage) for plan in unknown.values()])
    for plan, key in zip(plans, keys, strict=True):
        costs = {c.name: round(c.cost(plan), 6) for c in problem.constraints}
        yield problem.trace.evaluate(key, partial(next, found), stage=stage, costs=costs)
