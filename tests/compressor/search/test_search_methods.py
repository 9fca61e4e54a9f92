"""Searches: budgets kept, seeds repeat, answers on disk are not computed again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lathe.artefact.plan import Plan
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.search.evolution import Moves, evolve
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import SearchResult, methods
from lathe.compressor.search.methods import lathe, paper
from lathe.compressor.search.space import make_space, memory_constraint
from lathe.compressor.search.trace import Trace
from support.tiny_problem import Lab


def sensitivities(lab: Lab) -> np.ndarray:
    space = make_space(lab.source.shape)
    table = np.empty(8, dtype=object)
    for block, (_, kind) in enumerate(space.blocks):
        table[block] = np.arange(len(space.levels(kind))) * (1.0 + block)
    return table


def moves(lab: Lab, share: float, seed: int = 0) -> Moves:
    space, shape = make_space(lab.source.shape), lab.source.shape
    dense = shape.weight_bytes(shape.dense_plan, 4)
    memory = memory_constraint(space, shape, 0.8 * dense, weight_bytes={0: 4}, kv_bytes=4, tokens=10)
    return Moves(space, [lab.keep(share), memory], sensitivities(lab), random.Random(seed))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_moves_never_break_a_budget_and_leave_nothing_unspent(lab: Lab, share: float) -> None:
    change = moves(lab, share)
    plans = [change.space.smallest]
    for step in range(150):
        child = change.cross(*change.rng.choices(plans, k=2)) if step % 3 == 0 else change.mutate(plans[-1])
        plans.append(child)
        assert all(c.allows(child) for c in change.constraints)
        assert any(layer.kv_heads for layer in child)
        indices = change.space.indices(child)
        for block, level in enumerate(indices):
            wider = [i - (b == block) for b, i in enumerate(indices)]
            assert not level or not all(c.allows(change.space.plan(wider)) for c in change.constraints)
    assert len(set(plans)) > 3


def test_evolution_repeats_by_seed_and_only_improves(lab: Lab) -> None:
    def run(seed: int) -> tuple[list[tuple[float, Plan]], list[float]]:
        change, best = moves(lab, 0.5, seed), []
        weights = sensitivities(lab)

        def evaluate(plans: Sequence[Plan], _stage: int) -> list[float]:
            indices = map(change.space.indices, plans)
            return [float(sum(weights[b][i] for b, i in enumerate(chosen))) for chosen in indices]

        return evolve([change.mutate(change.space.smallest)], change, evaluate, 200, best.append), best

    (first, history), (again, _), (other, _) = run(1), run(1), run(2)
    assert first == again
    assert [p for _, p in first] != [p for _, p in other]
    assert history == sorted(history, reverse=True)
    assert history[-1] < history[0]
    assert [f for f, _ in first] == sorted(f for f, _ in first)


@pytest.mark.parametrize("name", ["lathe", "paper"])
def test_a_search_keeps_its_budget_and_repeats_by_seed(lab: Lab, tmp_path: Path, name: str) -> None:
    method = methods.get(name)

    def run(folder: str) -> SearchResult:
        (tmp_path / folder).mkdir()
        return method.search(lab.problem(tmp_path / folder, method.importance))

    found, again = run("a"), run("b")
    budget = lab.keep(0.6)
    assert 0.9 * budget.limit < budget.cost(found.plan) <= budget.limit
    assert Plan(tuple(s.shape for s in found.selections)) == found.plan == again.plan
    assert found.fitness == again.fitness
    assert all(a.channels.equal(b.channels) for a, b in zip(found.selections, again.selections, strict=True))


@pytest.mark.parametrize("name", ["lathe", "paper"])
def test_a_search_that_starts_again_computes_nothing_twice(
    lab: Lab, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.get(name)
    first = method.search(lab.problem(tmp_path, method.importance))

    def refuse(*_: object) -> float:
        raise AssertionError("computed again")

    monkeypatch.setattr("lathe.compressor.search.fitness.Fitness.evaluate", refuse)
    monkeypatch.setattr("lathe.compressor.search.fitness.Fitness.measure", refuse)
    monkeypatch.setattr(paper.Breeder, "loss", refuse)
    second = method.search(lab.problem(tmp_path, method.importance))
    assert (second.plan, second.fitness) == (first.plan, first.fitness)


def test_another_budget_costs_only_its_own_plans(lab: Lab, tmp_path: Path) -> None:
    evaluations = methods.get("lathe").default_evaluations
    lathe.search(lab.problem(tmp_path, evaluations=evaluations))
    other = lab.problem(tmp_path, constraints=[lab.keep(0.8)], evaluations=evaluations)
    lathe.search(other)
    assert 0 < other.trace.asked - other.trace.replayed <= evaluations


def test_the_default_search_beats_its_own_start(lab: Lab, tmp_path: Path) -> None:
    few = lathe.search(lab.problem(tmp_path, evaluations=1))
    many = lathe.search(lab.problem(tmp_path, evaluations=200))
    assert many.fitness < few.fitness


@pytest.mark.parametrize("spare", [0, 1])
def test_the_smallest_subnet_is_found_when_nothing_else_fits(lab: Lab, tmp_path: Path, spare: int) -> None:
    space = make_space(lab.source.shape)
    budget = lab.keep(0.5)
    tight = replace(budget, limit=budget.cost(space.smallest) + spare)
    found = lathe.search(lab.problem(tmp_path, constraints=[tight]))
    assert budget.cost(found.plan) == budget.cost(space.smallest)
    assert any(layer.kv_heads for layer in found.plan)


def test_attention_that_seems_harmless_is_never_dropped_everywhere(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = sensitivities(lab)
    for block in range(0, 8, 2):
        table[block] = np.zeros(len(table[block]))
    monkeypatch.setattr(lathe, "sensitivity_table", lambda *_: table)
    problem = lab.problem(tmp_path, constraints=[lab.keep(0.3)])
    assert not any(layer.kv_heads for layer in solve(problem.space, table, problem.constraints) or ())
    assert any(layer.kv_heads for layer in lathe.search(problem).plan)


def test_few_judged_levels_give_nearly_the_table_of_all(lab: Lab, tmp_path: Path) -> None:
    tables = {}
    for measured in (3, 99):
        problem = lab.problem(tmp_path / str(measured))
        (tmp_path / str(measured)).mkdir()
        tables[measured] = lathe.sensitivity_table(problem, lathe.PlanEvaluator(problem), measured)
        assert problem.trace.asked <= 8 * measured + 2, (
            "two plans choose between the table and the shrunk one"
        )
    for few, every in zip(tables[3], tables[99], strict=True):
        assert few[0] == every[0] == 0.0
        assert few[-1] == every[-1] > 0
        assert np.abs(np.sqrt(few) - np.sqrt(every)).max() < 0.35 * np.sqrt(every[-1])


class CountedStore(ArrayStore):
    """Counts the arrays that it makes."""

    made = 0

    def rows(self, *shape: int) -> ArrayLike:
        self.made += 1
        return super().rows(*shape)


def test_hidden_states_of_a_search_are_where_the_room_says(lab: Lab, tmp_path: Path) -> None:
    stores, found = [CountedStore(), CountedStore(tmp_path)], []
    for number, store in enumerate(stores):
        (tmp_path / str(number)).mkdir()
        found.append(lathe.search(lab.problem(tmp_path / str(number), evaluations=1, store=store)))
    blocks = 2 * len(lab.layers)
    assert all(store.made > 2 * blocks for store in stores), "states and gradients of every block"
    assert found[0].plan == found[1].plan
    assert found[0].fitness == found[1].fitness


@pytest.mark.parametrize("method", ["lathe", "quick"])
def test_a_search_spends_its_budget(lab: Lab, tmp_path: Path, method: str) -> None:
    problem = lab.problem(tmp_path, evaluations=1)
    found = methods.get(method).search(problem)
    assert 0.9 < problem.constraints[0].cost(found.plan) / problem.constraints[0].limit <= 1
    assert problem.trace.asked <= 8 * (5 if method == "lathe" else 2) + 2 + 1


def test_masks_of_the_paper_have_the_sizes_that_mutation_chose(lab: Lab, tmp_path: Path) -> None:
    problem = lab.problem(tmp_path, "paper")
    breeder = paper.Breeder(problem)
    parents = [breeder.uniform()]
    for _ in range(4):
        parents = breeder.children(parents, 10, 0.6, 0.3, 0.1) + breeder.crossings(parents, 3)
        for child in parents:
            assert 0.95 <= lab.keep(1.0).cost(child.plan) / problem.constraints[0].limit <= 1
            for kept, shape in zip(child.selections, child.plan, strict=True):
                assert (shape.query_heads, shape.kv_heads) in problem.space.attention
                assert shape.ffn in problem.space.ffn
                for part, dense in ((kept.kv_heads, 4), (kept.query_heads, 8), (kept.channels, 96)):
                    assert part.tolist() == sorted(set(part.tolist()))
                    assert all(0 <= unit < dense for unit in part.tolist())
                assert {h // 2 for h in kept.query_heads.tolist()} == set(kept.kv_heads.tolist())


def test_the_trace_gives_stored_values_and_forgets_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace = Trace(path)
    assert trace.evaluate("a", lambda: 0.1 + 0.2, stage=1) == 0.1 + 0.2
    assert trace.evaluate("b", lambda: 2.0) == 2.0
    path.write_text(path.read_text()[:-9])
    again = Trace(path)
    assert again.evaluate("a", lambda: 9.0) == 0.1 + 0.2
    assert again.evaluate("b", lambda: 3.0) == 3.0
    assert again.replayed == 1
    assert Trace(path).evaluate("b", lambda: 9.0) == 3.0
