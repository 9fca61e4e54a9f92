"""Plans of less than half of a model: whole attention blocks as a rival, chosen after reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lathe.compressor.search.deep_plans import rival_of, whole_attention
from lathe.compressor.search.method import Problem, SearchResult
from lathe.compressor.search.methods import lathe
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.space import make_space
from support.tiny_problem import Lab


class Chooser:
    """Takes the result with this number and keeps what it was asked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[Sequence[SearchResult]] = []

    def __call__(self, results: Sequence[SearchResult]) -> int:
        self.asked.append(results)
        return self.number


@pytest.fixture(autouse=True)
def table(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    space, found = make_space(lab.source.shape), np.empty(8, dtype=object)
    for block, (layer, kind) in enumerate(space.blocks):
        found[block] = (4 + layer) * np.linspace(0.0, 1.0, len(space.levels(kind))) ** 2
    monkeypatch.setattr(lathe, "sensitivity_table", lambda *_: found)
    return found


def deep(lab: Lab, path: Path, share: float, chooser: Chooser) -> Problem:
    return lab.problem(path, constraints=[lab.keep(share)], evaluations=1, choose=chooser)


def test_attention_loses_in_proportion_to_its_heads_and_the_last_layer_more(
    lab: Lab, table: np.ndarray
) -> None:
    space = make_space(lab.source.shape)
    shares = np.array([1 - heads / 8 for heads, _ in space.attention])
    for block, row in enumerate(whole_attention(space, table)):
        expected = table[block] if block % 2 else table[block].max() / 2 * shares
        assert row == pytest.approx(expected * (10 if block >= 6 else 1))


def test_the_first_tenth_of_the_layers_counts_ten_times_as_well(lab: Lab) -> None:
    space, table = make_space(lab.source.shape), np.empty(60, dtype=object)
    for block in range(60):
        table[block] = np.array([0.0, 1.0])
    found = whole_attention(space, table)
    assert [layer for layer in range(30) if found[2 * layer + 1][1] == 10.0] == [0, 1, 2, 29]


@pytest.mark.parametrize("number", [0, 1])
def test_the_better_plan_after_reconstruction_is_found(lab: Lab, tmp_path: Path, number: int) -> None:
    chooser = Chooser(number)
    problem = deep(lab, tmp_path, 0.4, chooser)
    found = lathe.search(problem)
    ((own, rival),) = chooser.asked
    assert found is (own, rival)[number]
    assert own.plan != rival.plan
    measured = PlanEvaluator(problem)
    assert [r.fitness for r in (own, rival)] == [measured.evaluate((r.plan, 0)) for r in (own, rival)]
    assert all(problem.allows(result.plan) for result in (own, rival))
    dropped = [sum(layer.kv_heads == 0 for layer in result.plan) for result in (own, rival)]
    assert dropped[1] > dropped[0], "whole attention blocks go"


def test_other_limits_of_the_budget_follow_the_first_choice(lab: Lab, tmp_path: Path) -> None:
    lathe.search(deep(lab, tmp_path, 0.4, Chooser(1)))
    again = Chooser(0)
    found = lathe.search(deep(lab, tmp_path, 0.38, again))
    assert not again.asked
    assert any(layer.kv_heads == 0 for layer in found.plan)


def test_prices_that_were_corrected_do_not_ask_again(lab: Lab, tmp_path: Path) -> None:
    lathe.search(deep(lab, tmp_path, 0.4, Chooser(1)))
    again = Chooser(0)
    problem, keep = deep(lab, tmp_path, 0.4, again), lab.keep(0.4)
    dearer = {level: 1.05 * cost for level, cost in keep.attention.items()}
    found = lathe.search(replace(problem, constraints=[replace(keep, attention=dearer)]))
    assert not again.asked
    assert any(layer.kv_heads == 0 for layer in found.plan)


def test_a_plan_of_more_than_half_has_no_rival(lab: Lab, tmp_path: Path) -> None:
    chooser = Chooser(1)
    lathe.search(deep(lab, tmp_path, 0.6, chooser))
    assert not chooser.asked


def test_neither_has_one_whose_bits_are_searched_or_that_is_within_another(
    lab: Lab, tmp_path: Path, table: np.ndarray
) -> None:
    chooser = Chooser(1)
    problem = deep(lab, tmp_path, 0.4, chooser)
    wider = lathe.search(lab.problem(tmp_path, constraints=[lab.keep(0.7)], evaluations=1)).plan
    within = lab.problem(tmp_path, constraints=problem.constraints, choose=chooser, within=wider)
    found = lathe.search(within)
    assert not chooser.asked
    mixed = replace(problem, mixed=MixedSpace(problem.space, (8, 4)))
    assert rival_of(mixed, table, found.plan) is None
    assert not chooser.asked
