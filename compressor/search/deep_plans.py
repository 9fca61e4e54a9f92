"""Plans that keep less than half of a model: attention whole in some layers, or a part of it in all.

A block's sensitivity grows slowly with the first heads that it loses, so that the knapsack takes some heads
of every layer. Where most heads go, they are no longer redundant, and each costs about as much as the next:
then it is better to keep the attention of some layers and to leave that of the others out, whose time goes to
wider FFNs, and these have more to reconstruct with. The layers at the ends (`end_layers.py`) stay whole while
anything else can go. The KL before the final reconstruction does not show it
(docs/experiments.md, "plans of less than half"). So both plans are reconstructed, and held-out text decides,
once for all searches of a run; where they are alike there, the rival is taken.
"""

from __future__ import annotations

import numpy as np

from lathe.artefact.plan import BLOCK_KINDS, Plan
from lathe.compressor.search.end_layers import end_layers
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Problem, SearchResult
from lathe.compressor.search.space import Space

_DEEP = 0.5
"""The share of the decoder's parameters below which a plan has a rival."""
_WHOLE, _ENDS = 0.5, 10.0


def whole_attention(space: Space, table: np.ndarray) -> np.ndarray:
    """Returns a table in which attention loses in proportion to its query heads, and ends lose more.

    Args:
        space: The levels.
        table: Object array [blocks] of float arrays [levels of that block], nats per token.
    """
    found = table.copy()
    heads = np.array([query_heads for query_heads, _ in space.attention])
    for position in range(0, len(table), len(BLOCK_KINDS)):
        found[position] = _WHOLE * table[position].max() * (1 - heads / heads.max())
    for layer in end_layers(len(table) // len(BLOCK_KINDS)):
        ends = slice(len(BLOCK_KINDS) * layer, len(BLOCK_KINDS) * (layer + 1))
        found[ends] = _ENDS * found[ends]
    return found


def has_rival(problem: Problem, plan: Plan) -> bool:
    """Tells whether a plan that the knapsack found is compared with another."""
    alone = problem.choose is None or problem.mixed is not None or problem.within is not None
    return not alone and problem.source.shape.kept(plan) < _DEEP


def rival_of(problem: Problem, table: np.ndarray, plan: Plan) -> Plan | None:
    """Returns the plan with whole attention blocks that a plan is compared with, if there is one.

    Args:
        problem: The problem.
        table: The table that the plan was found by.
        plan: The knapsack's.
    """
    if not has_rival(problem, plan):
        return None
    rival = solve(problem.space, whole_attention(problem.space, table), problem.constraints)
    return rival if rival and rival != plan and has_attention(rival) else None


def better_finalist(problem: Problem, found: SearchResult, rival: SearchResult) -> SearchResult:
    """Returns the better of two results after reconstruction; the first comparison of a run decides for all.

    Later ones have other limits, and prices that were corrected by what was measured meanwhile.
    """

    def chosen() -> float:
        assert problem.choose is not None
        return float(problem.choose([found, rival]))

    budgets = " ".join(constraint.name for constraint in problem.constraints)
    return rival if problem.trace.evaluate(f"whole attention {budgets}", chosen) else found
