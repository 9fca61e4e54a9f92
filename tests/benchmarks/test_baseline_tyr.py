"""Týr-the-Pruner: local pruning and the supernet by plain least squares, the search's moves and choices."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from other_settings import KINDS, direct_kl, is_deterministic
from tiny_setting import make_setting

from benchmarks.quality.baselines import tyr as method
from benchmarks.quality.baselines.tyr import evolve, helps, mutate, start, tyr
from benchmarks.quality.blocks import kinds
from benchmarks.quality.setting import Setting
from benchmarks.quality.subnet_evaluator import Block, Levels, SubnetEvaluator
from benchmarks.quality.supernet import Structure, layers, ranking, supernet, widths_around


def fit(rows: np.ndarray, weight: np.ndarray, columns: list[int]) -> tuple[np.ndarray, float]:
    """Least-squares weights [D, k] on some columns of the inputs, and their squared error."""
    target = rows @ weight.T
    found = np.linalg.lstsq(rows[:, columns], target, rcond=None)[0]
    return found.T, float(((rows[:, columns] @ found - target) ** 2).sum())


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_units_go_by_the_papers_score(size: int, first_order: bool) -> None:
    """Equation 4 with every H^-1 and every fit computed from scratch."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 10)) + 0.5 * rng.normal(size=(60, 10))
    weight, hessian = rng.normal(size=(4, 10)), rows.T @ rows
    gradient, alive, gone = weight @ hessian, list(range(10 // size)), []
    while len(alive) > 1:
        columns = [b * size + i for b in alive for i in range(size)]
        fitted, here = fit(rows, weight, columns)
        scores = []
        for place, block in enumerate(alive):
            own = slice(place * size, (place + 1) * size)
            rest = columns[: own.start] + columns[own.stop :]
            score = (fit(rows, weight, rest)[1] - here) / 2
            terms = np.abs((fitted[:, own] * gradient[:, columns[own]]).sum(0))
            scores.append(score + (terms.sum() if first_order else 0))
            assert block * size == columns[own.start]
        gone.append(alive.pop(int(np.argmin(scores))))
    found = ranking(torch.tensor(weight), torch.tensor(hessian), size, 1, 1, first_order)
    assert found.tolist() == [alive[0], *gone[::-1]]


def test_the_first_order_term_changes_who_goes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, 12, generator=generator).double() for rows in (30, 4))
    found = [ranking(w, x.T @ x, 1, 1, 1, first_order).tolist() for first_order in (True, False)]
    assert found[0] != found[1]


def test_structures_are_fitted_to_dense_outputs_on_expected_inputs(setting: Setting) -> None:
    """Two layers by hand: each block reads the means, weighted by width, of the outputs before (Eq. 5)."""
    widths, run = [[0, 1, 3, 4], [0, 30, 96]] * 4, setting.runner
    found, x = supernet(setting, widths, first_order=True), setting.embed(setting.fit)
    for position in range(4):
        dense, kind = setting.layers[position // 2], kinds(setting)[position % 2]
        read = run.attention_context if kind.name == "attention" else run.ffn_context
        context = read(dense, x)
        inputs, weight = context.flatten(0, 1).double().numpy(), dense[f"{kind.output}.weight"].numpy()
        ridge = np.sqrt(1e-2 * (inputs**2).mean() * len(inputs)) * np.eye(inputs.shape[1])
        outputs = []
        for width in widths[position]:
            structure = found[position][width]
            assert len(structure.units) == width
            columns = [u * kind.columns + i for u in structure.units.tolist() for i in range(kind.columns)]
            expected = fit(np.concatenate([inputs, ridge]), weight, columns)[0]
            assert structure.weight.numpy() == pytest.approx(expected, abs=2e-4)
            outputs.append(width * (context[..., columns] @ structure.weight.T))
        x = x + torch.stack(outputs).sum(0) / sum(widths[position])


def test_dense_widths_give_the_dense_model(setting: Setting) -> None:
    plan = (4, 96) * 4
    made = layers(setting, supernet(setting, [[w] for w in plan], first_order=True), plan)
    dense = setting.subnet(list(setting.layers)).logprobs(setting.heldout)
    torch.testing.assert_close(setting.subnet(made).logprobs(setting.heldout), dense)


def test_a_block_without_any_width_is_passed_by(setting: Setting) -> None:
    plan = (0, 40, 2, 0, 0, 0, 4, 96)
    made = layers(setting, supernet(setting, [[w] for w in plan], first_order=False), plan)
    assert [len(layer) for layer in made] == [4, 5, 0, 9]
    assert bool(setting.subnet(made).logprobs(setting.heldout).isfinite().all())


def test_intervals_halve_and_stay_within_the_block(setting: Setting) -> None:
    plan = (2, 50) * 4
    coarse, fine = (widths_around(setting, plan, interval)[:2] for interval in (0.125, 0.0625))
    assert coarse == [[0, 1, 2, 3, 4], [2, 14, 26, 38, 50, 62, 74, 86]]
    assert fine == [[0, 1, 2, 3, 4], [26, 32, 38, 44, 50, 56, 62, 68, 74]]


@pytest.mark.parametrize("keep", [0.95, 0.6, 0.3, 0.12])
def test_the_start_is_even_and_full(setting: Setting, keep: float) -> None:
    plan, (attention, ffn) = start(setting, keep), kinds(setting)
    for part, units in ((plan[::2], attention.units), (plan[1::2], ffn.units)):
        assert max(part) - min(part) <= 1
        assert 0 <= min(part) <= max(part) <= units
    norms = 2 * setting.shape.hidden_size * setting.shape.num_layers
    used = norms + sum(plan[::2]) * attention.parameters + sum(plan[1::2]) * ffn.parameters
    assert keep * setting.dense_parameters - ffn.parameters < used <= keep * setting.dense_parameters
    assert abs(sum(plan[::2]) - keep * 16) <= 1


def test_shifts_keep_each_kinds_sum_and_go_by_single_steps() -> None:
    nothing = Structure(torch.arange(0), torch.zeros(1, 0))
    structures = [dict.fromkeys(widths, nothing) for widths in [(0, 1, 2, 3), (10, 20, 30)] * 3]
    plan, rng = (1, 20, 2, 20, 0, 30), random.Random(0)
    moved = [mutate(structures, plan, rng) for _ in range(300)]
    for child in moved:
        assert all(width in structures[i] for i, width in enumerate(child))
        assert (sum(child[::2]), sum(child[1::2])) == (3, 70)
    changes = [[i for i in range(6) if child[i] != plan[i]] for child in moved]
    steps = [sum(abs(child[i] - plan[i]) // (10 if i % 2 else 1) for i in range(6)) for child in moved]
    assert {0, 2, 4, 6} <= set(steps) <= {0, 2, 4, 6, 8}
    assert steps.count(2) > steps.count(6)
    assert {i for changed in changes for i in changed} == set(range(6))


def test_evolution_lowers_kl_and_evaluates_as_many_as_it_may(setting: Setting) -> None:
    plan = start(setting, 0.6)
    structures = supernet(setting, widths_around(setting, plan, 0.125), first_order=False)
    evaluator = SubnetEvaluator(setting, random.Random(0))
    found, evaluated = evolve(setting, evaluator, structures, plan, 60, random.Random(0))
    before, after = (direct_kl(setting, layers(setting, structures, p), setting.fit) for p in (plan, found))
    assert evaluated == 60
    assert after < 0.97 * before


class PreferringTheStart(SubnetEvaluator):
    """Ranks plans by how few widths differ from one plan; notes what it was asked."""

    def __init__(self, plan: Levels) -> None:
        self.plan, self.asked = plan, []

    def best(
        self, candidates: Iterable[Levels], block: Block, tokens: int, survivors: int
    ) -> list[tuple[float, Levels]]:
        ranked = sorted((sum(a != b for a, b in zip(c, self.plan, strict=True)), c) for c in candidates)
        self.asked.append((tokens, survivors, {c for _, c in ranked}))
        return ranked[:survivors]


def test_stages_narrow_and_the_parent_takes_part_in_the_last(setting: Setting) -> None:
    plan = (2, 50) * 4
    structures = supernet(setting, widths_around(setting, plan, 0.125), first_order=False)
    evaluator = PreferringTheStart(plan)
    assert evolve(setting, evaluator, structures, plan, 50, random.Random(0)) == (plan, 50)
    for first, second, last in zip(
        evaluator.asked[::3], evaluator.asked[1::3], evaluator.asked[2::3], strict=True
    ):
        assert [stage[:2] for stage in (first, second, last)] == [(512, 4), (2048, 2), (4096, 1)]
        assert [len(stage[2]) for stage in (first, second, last)] == [25, 4, 3]
        assert plan in last[2]
        assert plan not in first[2] | second[2]


def test_the_first_order_term_is_taken_where_it_helps(setting: Setting) -> None:
    plan = start(setting, 0.5)
    losses = [
        setting.loss(layers(setting, supernet(setting, [[w] for w in plan], term), plan), setting.heldout)
        for term in (False, True)
    ]
    assert losses[0] != losses[1]
    assert helps(setting, plan) == (losses[1] < losses[0])


@pytest.mark.parametrize("keep", [0.9, 0.4])
def test_budget_is_kept_and_used(setting: Setting, keep: float) -> None:
    found = tyr(replace(setting, evaluations=12), keep)
    norms = 2 * setting.shape.hidden_size * setting.shape.num_layers
    slack = norms + 3 * setting.shape.hidden_size
    assert keep * setting.dense_parameters - slack < found.parameters <= keep * setting.dense_parameters
    assert found.plan is not None
    assert found.parameters == setting.shape.decoder_parameters(found.plan)
    assert found.candidates == 12


def test_four_rounds_of_ever_finer_supernets(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    intervals: list[float] = []

    def spy(setting: Setting, plan: tuple[int, ...], interval: float) -> list[list[int]]:
        intervals.append(interval)
        return widths_around(setting, plan, interval)

    monkeypatch.setattr(method, "widths_around", spy)
    tyr(replace(setting, evaluations=8), 0.6)
    assert intervals == [0.125, 0.0625, 0.03125, 0.015625]


def test_all_parameters_is_dense(setting: Setting) -> None:
    found = tyr(setting, 1.0)
    dense = setting.subnet(list(setting.layers)).logprobs(setting.heldout)
    torch.testing.assert_close(found.logprobs(setting.heldout), dense)
    assert found.candidates == 0


def test_the_same_again(setting: Setting) -> None:
    assert is_deterministic(tyr, replace(setting, evaluations=8), 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_llamas(kind: str, tmp_path: Path) -> None:
    other = replace(make_setting(tmp_path, **KINDS[kind]), evaluations=8)
    found = tyr(other, 0.6)
    assert 0.57 * other.dense_parameters < found.parameters <= 0.6 * other.dense_parameters
    assert bool(found.logprobs(other.heldout).isfinite().all())
