"""The plan with the same widths in every layer that a search may start from."""

from __future__ import annotations

from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.search.method import Problem


def uniform_plan(problem: Problem) -> Plan:
    """Returns the widest uniform plan within the budgets, or the smallest plan where there is none.

    Between plans of nearly the same cost, the one is wider whose attention and FFN keep more equal shares.
    """
    space, dense = problem.space, problem.source.shape.layer
    uniform = [
        Plan((LayerShape.of(heads, width),) * space.layers)
        for heads in space.attention[:-1]
        for width in space.ffn[:-1]
    ]
    fitting = [p for p in uniform if problem.allows(p)] or [space.smallest]
    cost = problem.constraints[0].cost

    def kept(plan: Plan) -> float:
        layer = plan[0]
        channels = (layer.experts or 1) * layer.ffn / ((problem.source.shape.experts or 1) * dense.ffn)
        unevenness = abs(layer.query_heads / dense.query_heads - channels)
        return cost(plan) * (1 - 0.25 * unevenness)

    return max(fitting, key=kept)
