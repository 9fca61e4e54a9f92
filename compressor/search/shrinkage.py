"""Sensitivities shrunk towards the mean of their kind, where whole plans lose no more by that.

A sensitivity is measured with all other blocks dense, on few tokens. It varies more from layer to layer than
the block's part in the loss of a plan: layers stand in for each other, attention most of all, so that one of
them is hardly missed alone, and all of them are. A plan by such a table keeps some layers whole and next to
nothing of others. What that gains on the text that was measured, it can lose on other text.

So there is a second table. Each row is the mean of itself and the mean row of its kind, and attention counts
twice. Plans of both tables, with the same parameters, are measured on held-out text. The second table is
taken unless its plan is worse by more than `_TIE`: of two that are alike, the more regular one is the safer
choice (docs/experiments.md, "shrunk sensitivities").
"""

from __future__ import annotations

import numpy as np

from lathe.artefact.plan import BLOCK_KINDS, Plan
from lathe.compressor.search.evolution import has_attention
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.plan_fitness import plan_fitness
from lathe.compressor.search.space import parameter_constraint

_MEAN, _ATTENTION = 0.5, 2.0
_KEPT, _TIE = 0.6, 0.1


def shrunk(table: np.ndarray) -> np.ndarray:
    """Returns the second table of an object array [blocks] of float arrays [levels of that block]."""
    found = table.copy()
    for kind, weight in enumerate((_ATTENTION, 1.0)):
        rows = np.stack([*table[kind :: len(BLOCK_KINDS)]])
        for layer, row in enumerate((1 - _MEAN) * rows + _MEAN * rows.mean(0)):
            found[len(BLOCK_KINDS) * layer + kind] = weight * row
    return found


def better_table(problem: Problem, evaluator: PlanEvaluator, table: np.ndarray) -> np.ndarray:
    """Returns a table of sensitivities, shrunk where that does no harm.

    Args:
        problem: The problem; its trace records what is measured.
        evaluator: Measures plans.
        table: Object array [blocks] of float arrays [levels of that block], nats per token.

    Returns:
        The table, or the shrunk one, such that both give its plan the same total.
    """
    other = shrunk(table)
    plans = [_reference(problem, rows) for rows in (table, other)]
    own, regular = plans
    if own is None or regular is None or own == regular:
        return table
    harm, regular_harm = plan_fitness(problem, evaluator.evaluate, [own, regular], 0, "reference")
    if regular_harm > (1 + _TIE) * harm:
        return table
    return other * (total(problem.space, table, regular) / total(problem.space, other, regular))


def _reference(problem: Problem, table: np.ndarray) -> Plan | None:
    """Returns a table's plan of the size that tables are compared at; None where that has no attention."""
    budget = parameter_constraint(problem.space, problem.source.shape, _KEPT)
    plan = solve(problem.space, table, [budget])
    return plan if plan and has_attention(plan) else None
