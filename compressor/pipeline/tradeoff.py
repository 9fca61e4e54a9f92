"""What other budgets would have given: the front that a run's damages imply, and its plan's place on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.pipeline.pareto import plans_along
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.search.knapsack import total


def tradeoff(
    card: PreflightResult, search: Searcher, table: LatencyTable | None, chosen: Plan
) -> dict[str, Any] | None:
    """Costs and damages along the front and of the chosen plan; None where the search made no damages.

    A cost is milliseconds by the table, or, without one, a share of the decoder's parameters. All damages
    are in the trace already, so that nothing is judged again.
    """
    if card.plan is not None or card.method.sensitivities is None:
        return None
    problem = replace(search.problem(card.constraints), progress=Progress(quiet=True))
    damage = card.method.sensitivities(problem)
    shape = card.source.shape

    def row(plan: Plan) -> dict[str, float]:
        cost = table.predict(plan) if table else shape.kept(plan)
        return {"cost": cost, "damage": total(card.space, damage, plan), "kept": shape.kept(plan)}

    return {
        "cost": "milliseconds" if table else "share of the decoder's parameters",
        "unit": "KL in nats per token, summed over blocks cut alone, before the last reform",
        "points": [row(plan) for plan in plans_along(card, table, damage)],
        "chosen": row(chosen),
    }
