"""The knapsack against trying every plan."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.space import Constraint, Space

SPACE = Space(((4, 2), (2, 1), (0, 0)), (32, 16, 0), 2)
BLOCKS = list(SPACE.blocks)
BINS = 4096
HARMLESS = np.empty(4, dtype=object)
HARMLESS[:] = [np.zeros(3)] * 4
costs = st.tuples(*[st.floats(0.1, 10)] * 4).map(lambda c: sorted(c, reverse=True))


def constraint(name: str, four: list[float], share: float) -> Constraint:
    """A budget of `share` of what the dense plan costs; costs fall with the widths."""
    attention = dict(zip(SPACE.attention, (four[0], four[2], 0.0), strict=True))
    ffn = dict(zip(SPACE.ffn, (four[1], four[3], 0.0), strict=True))
    return Constraint(name, "units", share * 2 * (four[0] + four[1]), 0.0, attention, ffn)


@st.composite
def sensitivities(draw: st.DrawFn) -> np.ndarray:
    table = np.empty(len(BLOCKS), dtype=object)
    for block in range(len(BLOCKS)):
        steps = draw(st.lists(st.floats(0, 1), min_size=2, max_size=2))
        table[block] = np.cumsum([0.0, *steps])
    return table


def best(sensitivities: np.ndarray, budgets: list[Constraint], slack: float = 0.0) -> float:
    """Returns the least summed sensitivity of all plans that spend at most (1 - slack) of every budget."""
    sums = [
        sum(sensitivities[b][i] for b, i in enumerate(indices))
        for indices in itertools.product(range(3), repeat=len(BLOCKS))
        if all(c.cost(SPACE.plan(indices)) <= c.limit * (1 - slack) for c in budgets)
    ]
    return min(sums, default=float("inf"))


def value(sensitivities: np.ndarray, budgets: list[Constraint]) -> float:
    plan = solve(SPACE, sensitivities, budgets)
    if plan is None:
        return float("inf")
    assert all(c.allows(plan) for c in budgets)
    return float(sum(sensitivities[b][i] for b, i in enumerate(SPACE.indices(plan))))


@settings(max_examples=60, deadline=None)
@given(sensitivities(), costs, st.floats(0.05, 1))
def test_one_budget_is_solved_up_to_its_bins(
    sensitivities: np.ndarray, four: list[float], share: float
) -> None:
    budget = [constraint("a", four, share)]
    found = value(sensitivities, budget)
    assert (
        best(sensitivities, budget, -1e-9) - 1e-9
        <= found
        <= best(sensitivities, budget, len(BLOCKS) / BINS) + 1e-9
    )


@example(HARMLESS, [3, 3, 1, 1], [3, 3, 3, 1], 0.21875, 0.3125)
@settings(max_examples=40, deadline=None)
@given(sensitivities(), costs, costs, st.floats(0.01, 1), st.floats(0.01, 1))
def test_two_budgets_are_both_kept(
    sensitivities: np.ndarray, a: list[float], b: list[float], share_a: float, share_b: float
) -> None:
    budgets = [constraint("a", a, share_a), constraint("b", b, share_b)]
    found = value(sensitivities, budgets)
    assert found >= best(sensitivities, budgets, -1e-9) - 1e-9
    assert np.isfinite(found) == np.isfinite(best(sensitivities, budgets))


def test_a_loose_second_budget_changes_nothing() -> None:
    sensitivities = np.empty(4, dtype=object)
    for block, row in enumerate(([0, 1, 2], [0, 0.1, 3], [0, 0.5, 0.6], [0, 2, 4])):
        sensitivities[block] = np.array(row, dtype=float)
    tight, loose = constraint("a", [5, 4, 3, 2], 0.6), constraint("b", [5, 4, 3, 2], 1.0)
    assert (
        value(sensitivities, [tight, loose]) == value(sensitivities, [tight]) == best(sensitivities, [tight])
    )


def test_no_plan_where_nothing_fits() -> None:
    nothing = dict.fromkeys(SPACE.attention, 0.0), dict.fromkeys(SPACE.ffn, 0.0)
    impossible = Constraint("a", "units", 1.0, 2.0, *nothing)
    assert solve(SPACE, HARMLESS, [impossible]) is None
