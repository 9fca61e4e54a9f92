"""The table that is shrunk towards the mean, and when it is taken."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from lathe.artefact.plan import Plan
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.shrinkage import better_table, shrunk
from lathe.compressor.search.space import make_space, parameter_constraint
from support.tiny_problem import Lab


def uneven(lab: Lab) -> np.ndarray:
    """Sensitivities that differ much from layer to layer."""
    table = np.empty(8, dtype=object)
    for block, (layer, kind) in enumerate(make_space(lab.source.shape).blocks):
        levels = len(make_space(lab.source.shape).levels(kind))
        table[block] = np.linspace(0.0, 1.0, levels) ** 2 * (0.1, 3.0, 0.02, 1.0)[layer]
    return table


def chosen(problem: Problem, table: np.ndarray, harms: tuple[float, float]) -> tuple[np.ndarray, list[Plan]]:
    """The table that is taken where its plan and that of the shrunk one have these KL."""
    asked: list[Plan] = []
    values = iter(harms)

    def evaluate(_self: PlanEvaluator, task: tuple[Plan, int]) -> float:
        asked.append(task[0])
        return next(values)

    with patch.object(PlanEvaluator, "evaluate", evaluate):
        return better_table(problem, PlanEvaluator(problem), table), asked


@pytest.fixture
def problem(lab: Lab, tmp_path: Path) -> Problem:
    return lab.problem(tmp_path)


def test_rows_are_half_the_mean_of_their_kind_and_attention_counts_twice(lab: Lab) -> None:
    table = uneven(lab)
    found = shrunk(table)
    for block, row in enumerate(found):
        kind = block % 2
        mean = np.mean(np.stack([*table[kind::2]]), axis=0)
        assert row == pytest.approx((2.0, 1.0)[kind] * (table[block] + mean) / 2)
    assert all(np.array_equal(a, b) for a, b in zip(table, uneven(lab), strict=True)), "it is not changed"


def test_plans_of_a_shrunk_table_are_more_even(lab: Lab, problem: Problem) -> None:
    table = uneven(lab)
    budget = parameter_constraint(problem.space, lab.source.shape, 0.6)
    spread = []
    for rows in (table, shrunk(table)):
        plan = solve(problem.space, rows, [budget])
        assert plan is not None
        spread.append(float(np.std([layer.ffn for layer in plan[:-1]])))
    assert spread[1] < spread[0]


@pytest.mark.parametrize(("harms", "taken"), [((1.0, 1.05), True), ((1.0, 0.5), True), ((1.0, 1.3), False)])
def test_the_shrunk_table_is_taken_unless_its_plan_is_clearly_worse(
    lab: Lab, problem: Problem, harms: tuple[float, float], taken: bool
) -> None:
    table = uneven(lab)
    found, asked = chosen(problem, table, harms)
    assert len(set(asked)) == 2
    size = lab.source.shape.decoder_parameters
    assert all(size(plan) <= 0.6 * size(lab.source.shape.dense_plan) for plan in asked)
    if not taken:
        assert found is table
        return
    assert total(problem.space, found, asked[1]) == pytest.approx(total(problem.space, table, asked[1]))
    ratios = [a[-1] / b[-1] for a, b in zip(found, shrunk(table), strict=True)]
    assert ratios == pytest.approx([ratios[0]] * 8)


def test_what_was_compared_is_read_from_the_trace(lab: Lab, tmp_path: Path, problem: Problem) -> None:
    table = uneven(lab)
    found, _ = chosen(problem, table, (1.0, 1.0))
    again, asked = chosen(lab.problem(tmp_path), table, (9.0, 99.0))
    assert not asked
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
