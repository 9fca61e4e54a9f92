"""EvoPress and Týr: level switches within all budgets, selection in stages, coarse levels before fine."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.plan import Plan
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.level_grid import LevelGrid
from lathe.compressor.search.level_switch import LevelSwitching, unguided
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.space import Constraint, Space, make_space, memory_constraint
from support.tiny_problem import TABLE, Lab

ENGINES = ("evopress", "tyr")


def budgets(lab: Lab, share: float) -> list[Constraint]:
    """Milliseconds in steps, and bytes."""
    shape, space = lab.source.shape, make_space(lab.source.shape)
    dense = shape.weight_bytes(shape.dense_plan, 4)
    memory = memory_constraint(space, shape, 0.8 * dense, weight_bytes={0: 4}, kv_bytes=4, tokens=10)
    return [TABLE.constraint(space, share * TABLE.predict(shape.dense_plan)), memory]


def switching(grid: LevelGrid, constraints: Sequence[Constraint], **changes: Any) -> LevelSwitching:
    moves = unguided(grid, constraints, random.Random(3))
    facts: dict[str, Any] = {"evaluate": lambda plans, _stage: [0.0] * len(plans), "survivors": (4, 2, 1)}
    return LevelSwitching(moves, **facts | {"switches": 3} | changes)


def fits(constraints: Sequence[Constraint], plan: Plan) -> bool:
    return all(constraint.allows(plan) for constraint in constraints)


@pytest.mark.parametrize("share", [0.45, 0.6, 0.9])
@pytest.mark.parametrize("coarse", [False, True])
def test_offspring_keep_all_budgets_and_leave_no_room(lab: Lab, share: float, coarse: bool) -> None:
    space, constraints = make_space(lab.source.shape), budgets(lab, share)
    grid = LevelGrid.worthwhile(space, constraints)
    change, plan = switching(grid, constraints), space.smallest
    plan = change.switched(plan)
    if coarse:
        grid = grid.around(plan, 0.25)
        change = switching(grid, constraints)
    found = set()
    for _ in range(80):
        plan = change.switched(plan)
        found.add(plan)
        assert fits(constraints, plan)
        assert any(layer.kv_heads for layer in plan)
        indices = grid.indices(plan)
        for block, level in enumerate(indices):
            wider = [i - (b == block) for b, i in enumerate(indices)]
            assert not level or not fits(constraints, grid.plan(wider))
    assert len(found) > 20


def test_switches_within_kinds_leave_the_sums_of_both_where_levels_cost_the_same() -> None:
    space = Space(((8, 4), (4, 2), (0, 0)), (96, 64, 32, 0), 4)
    costs = {
        "attention": {(8, 4): 20.0, (4, 2): 10.0, (0, 0): 0.0},
        "ffn": {96: 3.0, 64: 2.0, 32: 1.0, 0: 0.0},
    }
    start = space.plan([1, 1, 0, 2, 1, 1, 1, 2])
    free = Constraint("latency", "ms", 0.0, 0.0, **costs)
    exact = replace(free, limit=free.cost(start))

    def sums(plan: Plan) -> tuple[int, int]:
        return sum(layer.kv_heads for layer in plan), sum(layer.ffn for layer in plan)

    for within in (True, False):
        change = switching(LevelGrid.worthwhile(space, [exact]), [exact], within_kinds=within)
        offspring = {change.switched(start) for _ in range(60)}
        assert ({sums(plan) for plan in offspring} == {sums(start)}) == within
        assert len(offspring) > 10


def test_stages_keep_the_best_and_the_parent_only_improves(lab: Lab) -> None:
    space, constraints = make_space(lab.source.shape), [lab.keep(0.5)]
    asked: list[tuple[int, int]] = []

    def evaluate(plans: Sequence[Plan], stage: int) -> list[float]:
        """The first layers matter; the first stage misses a part of it."""
        asked.append((stage, len(plans)))
        noise = random.Random(stage)
        lost = [-sum(layer.ffn / (i + 1) for i, layer in enumerate(plan)) for plan in plans]
        return [value + noise.random() * (2 - stage) for value in lost]

    change = switching(LevelGrid.worthwhile(space, constraints), constraints, evaluate=evaluate)
    start, history = change.switched(space.smallest), []
    value, plan = change.run(start, 80, history.append)
    assert asked == [(2, 1), *[(0, 16), (1, 4), (2, 2)] * 5]
    assert evaluate([plan], 2) == [value] < evaluate([start], 2)
    assert history == sorted(history, reverse=True)
    assert history[-1] == value
    others = replace(change, evaluate=lambda plans, _stage: [float(p != plan) for p in plans])
    assert others.run(plan, 32, history.append) == (0.0, plan)


def test_a_grid_has_nine_levels_around_a_plan_and_the_ends_of_the_space() -> None:
    space = Space(((4, 4), (3, 3), (2, 2), (1, 1), (0, 0)), tuple(range(1024, -1, -32)), 2)
    plan = space.plan([2, 16, 0, 31])
    every = LevelGrid(space, ((*range(5),), (*range(33),)) * 2)
    grid = every.around(plan, 0.125)
    assert grid.levels == (
        (0, 1, 2, 3, 4),
        (0, 4, 8, 12, 16, 20, 24, 28, 32),
        (0, 1, 2, 3, 4),
        (15, 19, 23, 27, 31),
    )
    assert grid.indices(plan) == [2, 4, 0, 4]
    assert grid.plan(grid.indices(plan)) == plan
    fine = every.around(plan, 0.125 / 8)
    assert fine.levels[1] == tuple(range(12, 21))
    assert list(grid.blocks) == list(space.blocks)


def test_levels_that_cost_as_much_as_wider_ones_are_left_out() -> None:
    space = Space(((4, 2), (3, 3), (2, 2), (1, 1), (0, 0)), (100, 96, 90, 64, 60, 0), 1)
    heads = dict(zip(space.attention, (5.0, 5.0, 3.0, 3.0, 0.0), strict=True))
    channels = dict(zip(space.ffn, (4.0, 3.0, 3.0, 2.0, 2.0, 0.0), strict=True))
    steps = Constraint("latency", "ms", 9.0, 0.0, heads, channels)
    assert LevelGrid.worthwhile(space, [steps]).levels == ((0, 1, 2, 4), (0, 1, 3, 5))
    size = Constraint("memory", "bytes", 9.0, 0.0, heads, {width: float(width) for width in space.ffn})
    assert LevelGrid.worthwhile(space, [steps, size]).levels[1] == (0, 1, 2, 3, 4, 5)
    grid = LevelGrid.worthwhile(space, [steps])
    assert grid.plan(grid.indices(space.plan([3, 4]))) == space.plan([2, 3])


def rows(task: Problem) -> list[dict[str, Any]]:
    return [json.loads(line) for line in task.trace._path.read_text().splitlines()]


@pytest.fixture(scope="module", params=ENGINES)
def searched(
    request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Problem, SearchResult]:
    directory = tmp_path_factory.mktemp(request.param)
    limits, heldout = budgets(lab, 0.65), lab.windows[lab.heldout]
    task = lab.problem(directory, constraints=limits, windows=heldout, evaluations=64)
    return task, methods.get(request.param).search(task)


def test_every_candidate_of_a_search_keeps_all_budgets(searched: tuple[Problem, SearchResult]) -> None:
    task, found = searched
    limits = {c.name: c.limit for c in task.constraints}
    found_costs = [row["costs"] for row in rows(task)]
    assert all(cost[name] <= limits[name] * (1 + 1e-9) for cost in found_costs for name in limits)
    assert TABLE.predict(found.plan) > 0.9 * limits["latency"]
    stages = Counter(row["stage"] for row in rows(task))
    assert task.evaluations >= stages[0] > stages[1] > stages[2] > 1


def test_a_search_improves_on_uniform_widths_by_what_reconstructed_blocks_lose(
    searched: tuple[Problem, SearchResult],
) -> None:
    task, found = searched
    start = rows(task)[0]
    assert start["stage"] == 2
    assert found.fitness < 0.95 * start["value"]
    tokens = task.windows.numel()
    again = PlanEvaluator(task, tokens=(tokens,), length=128).evaluate((found.plan, 0))
    assert again == pytest.approx(found.fitness, rel=1e-4)
    assert Plan(tuple(s.shape for s in found.selections)) == found.plan


@pytest.mark.parametrize("name", ENGINES)
def test_a_search_that_was_killed_finds_the_same_and_measures_nothing_twice(
    lab: Lab, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem(folder: str, **changes: Any) -> Problem:
        (tmp_path / folder).mkdir(exist_ok=True)
        return lab.problem(tmp_path / folder, evaluations=24, **changes)

    search = methods.get(name).search
    whole = search(problem("whole"))
    lines = (tmp_path / "whole" / "trace.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "trace.jsonl").write_text("".join(lines[:20]) + lines[20][:20])
    other = search(problem("other", seed=1))
    counted, call = [], Fitness.evaluate
    monkeypatch.setattr(Fitness, "evaluate", lambda own, plan: counted.append(1) or call(own, plan))
    again = search(problem("torn"))
    assert (again.plan, again.fitness) == (whole.plan, whole.fitness)
    assert len(counted) == len(lines) - 20
    assert other.plan != whole.plan


@pytest.mark.parametrize("name", ENGINES)
def test_the_dense_model_and_the_smallest_subnet_are_found_at_the_ends(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    dense, space, budget = lab.source.shape.dense_plan, make_space(lab.source.shape), lab.keep(1.0)
    assert methods.get(name).search(lab.problem(tmp_path, constraints=[budget])).plan == dense
    tight = replace(budget, limit=budget.cost(space.smallest))
    found = methods.get(name).search(lab.problem(tmp_path, constraints=[tight], evaluations=20))
    assert any(layer.kv_heads for layer in found.plan)
    assert tight.allows(found.plan)
