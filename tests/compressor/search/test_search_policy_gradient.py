"""The policy gradient: its estimate, its projection onto milliseconds, its masks, and what it returns."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, select
from lathe.compressor.search.method import Problem, methods
from lathe.compressor.search.methods.policy_gradient import check
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.policy.gradient import policy_gradient
from lathe.compressor.search.policy.masked_model import MaskedModel
from lathe.compressor.search.policy.probabilities import Budget
from lathe.compressor.search.policy.units import Units, make_units
from lathe.compressor.search.space import Constraint, Space, make_space
from support.tiny_models import tiny as tiny_family
from support.tiny_problem import TABLE, Lab

METHOD = methods.get("policy-gradient")


def problem(lab: Lab, directory: Path, **changes: Any) -> Problem:
    """A search in milliseconds of a table whose prices are steps, on text that nothing was fitted on."""
    directory.mkdir(exist_ok=True)
    dense = TABLE.predict(lab.source.shape.dense_plan)
    facts = {
        "windows": lab.windows[lab.heldout],
        "fitted": lab.windows[~lab.heldout],
        "evaluations": 110,
        "constraints": [TABLE.constraint(make_space(lab.source.shape), 0.65 * dense)],
    }
    return lab.problem(directory, **facts | changes)


def units_of(shape: ModelShape, space: Space | None = None) -> Units:
    layer, space = shape.layer, space or make_space(shape)
    groups, heads = torch.randperm(layer.kv_heads), torch.arange(layer.query_heads).view(layer.kv_heads, -1)
    ranking = ImportanceRanking(groups, heads, torch.randperm(layer.ffn))
    return make_units(space, [ranking] * shape.num_layers, shape.dense_plan)


def drawn(units: Units, seed: int) -> np.ndarray:
    """Probabilities of all kinds, some of them 0 or 1."""
    values = np.random.default_rng(seed).random(units.exist.shape)
    found: np.ndarray = np.clip(1.4 * values - 0.2, 0, 1) * units.exist
    return found


def masks_of(exist: np.ndarray) -> list[np.ndarray]:
    """All masks of a few entries."""
    at = np.argwhere(exist)
    found = []
    for bits in itertools.product((False, True), repeat=len(at)):
        mask = np.zeros_like(exist)
        mask[tuple(at.T)] = bits
        found.append(mask)
    return found


def chance(mask: np.ndarray, probabilities: np.ndarray, exist: np.ndarray) -> float:
    each = np.where(mask, probabilities, 1 - probabilities)
    return float(np.prod(each[exist]))


def test_the_estimate_has_the_mean_of_the_exact_gradient() -> None:
    exist = np.array([[True, True, True], [True, True, False]])
    s = np.array([[0.8, 0.3, 0.6], [0.45, 0.9, 0.0]])
    masks, rng = masks_of(exist), np.random.default_rng(3)
    by_effect: dict[bytes, float] = {}

    def loss(mask: np.ndarray) -> float:
        effect = (mask[:, 1:] & mask[:, :1]).tobytes()
        return by_effect.setdefault(effect, float(rng.normal(5, 2)))

    losses = [loss(mask) for mask in masks]
    chances = [chance(mask, s, exist) for mask in masks]
    mean = np.zeros_like(s)
    for (m, p, a), (n, q, b) in itertools.product(zip(masks, chances, losses, strict=True), repeat=2):
        mean += p * q * policy_gradient([a, b], np.array([m, n]), s)
    for at in np.argwhere(exist):
        moved = [s.copy(), s.copy()]
        for sign, values in zip((1, -1), moved, strict=True):
            values[tuple(at)] += sign * 1e-5
        high, low = (sum(chance(m, v, exist) * x for m, x in zip(masks, losses, strict=True)) for v in moved)
        p = s[tuple(at)]
        expected = np.sqrt(p * (1 - p)) * (high - low) / 2e-5
        assert mean[tuple(at)] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_gradient_step_uses_only_differences_of_losses_of_the_same_text() -> None:
    s, masks = np.full((3, 4), 0.5), np.random.default_rng(0).random((2, 3, 4)) < 0.5
    estimate = policy_gradient([1.0, 2.0], masks, s)
    assert np.allclose(estimate, policy_gradient([101.0, 102.0], masks, s))
    assert not policy_gradient([1.5, 1.5], masks, s).any()


def test_expected_costs_are_those_of_all_masks(lab: Lab) -> None:
    space = Space(((8, 4), (4, 2), (0, 0)), (96, 64, 32, 0), 1)
    units = units_of(lab.source.shape, space)
    ranking = units.rankings[0]
    units = make_units(space, [ranking], Plan((LayerShape(8, 4, 96),)))
    constraint = TABLE.constraint(space, 3.0)
    budget, s = Budget.of(units, [constraint]), drawn(units, 1)
    total = 0.0
    for mask in masks_of(units.exist):
        total += chance(mask, s, units.exist) * constraint.cost(units.subnet(mask)[0])
    assert budget.expected(s)[0] == pytest.approx(total)


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.floats(0.15, 0.95),
    st.sampled_from([(8, 4, 96), (9, 3, 1000), (10, 10, 640), (4, 1, 257)]),
)
def test_projections_keep_the_milliseconds_and_stay_probabilities(
    seed: int, share: float, widths: tuple[int, int, int]
) -> None:
    query, kv, ffn = widths
    shape = ModelShape(
        hidden_size=64,
        head_dim=16,
        layer=LayerShape(query, kv, ffn),
        num_layers=5,
        vocab_size=100,
        tied_embeddings=True,
    )
    units = units_of(shape)
    free = TABLE.constraint(units.space, 1.0)
    floor, dense = free.cost(Plan((LayerShape(0, 0, 0),) * 5)), free.cost(shape.dense_plan)
    limit = floor + share * (dense - floor)
    budget = Budget.of(units, [replace(free, limit=limit)])
    found = budget.project(drawn(units, seed))
    assert budget.expected(found)[0] == pytest.approx(limit, rel=0.01)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found[~units.exist].any()
    harm = [
        np.sort(np.random.default_rng(seed + b).random(1 + u.count))[::-1] for b, u in enumerate(units.blocks)
    ]
    start = budget.initial(harm, np.zeros_like(units.exist))
    assert budget.expected(start)[0] == pytest.approx(limit, rel=0.01)
    plan, _ = units.subnet(budget.mask(found))
    assert free.cost(plan) <= limit * (1 + 1e-9)
    assert units.space.plan(units.space.indices(plan)) == plan


def test_the_first_units_of_a_plan_are_the_plan(lab: Lab) -> None:
    units = units_of(lab.source.shape)
    plan = units.space.plan([0, 3, 4, 2, len(units.space.attention) - 1, 0, 0, len(units.space.ffn) - 1])
    units = make_units(units.space, units.rankings, plan)
    found, rankings = units.subnet(units.mask_of(plan))
    assert found == plan
    for new, old, layer in zip(rankings, units.rankings, plan, strict=True):
        assert select(new, layer).channels.equal(select(old, layer).channels)
        assert select(new, layer).query_heads.equal(select(old, layer).query_heads)


@torch.inference_mode()
def test_a_masked_model_is_the_model_without_those_heads_and_channels(lab: Lab, tmp_path: Path) -> None:
    task = problem(lab, tmp_path)
    units = make_units(task.space, task.rankings, lab.source.shape.dense_plan)
    mask = (np.random.default_rng(4).random(units.exist.shape) < 0.7) & units.exist
    mask[2, 0], mask[3, 0] = False, True
    plan, rankings = units.subnet(mask)
    ids = lab.windows[lab.heldout]
    dense, pruned = lab.embedding[ids], lab.embedding[ids]
    for weights, ranking, layer in zip(lab.layers, rankings, plan, strict=True):
        kept = select(ranking, layer)
        dense = lab.runner.layer(weights, dense)
        subnet = prune_attention(lab.source.shape, weights, kept) | prune_ffn(weights, kept)
        pruned = lab.runner.layer(subnet, pruned)
    exact = lab.head.kl(lab.head.targets(dense), pruned)
    assert MaskedModel(task, units)((mask, None)) == pytest.approx(exact, rel=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt_neox", "opt", "gemma2"])
def test_masks_are_right_in_parallel_blocks_and_with_biases_and_norms_behind(
    family: str, tmp_path: Path
) -> None:
    source = open_checkpoint(str(tiny_family(tmp_path, family, "untied", "one file").model))
    model, shape = LayeredModel.open(source, ArrayStore()), source.shape
    units, ids = units_of(shape), torch.randint(5, shape.vocab_size, (2, 16))
    mask = (np.random.default_rng(1).random(units.exist.shape) < 0.6) & units.exist
    mask[:, 0], mask[-1, 0] = True, False
    dense = pruned = model.embedding[ids]
    for index, (ranking, layer) in enumerate(zip(*units.subnet(mask)[::-1], strict=True)):
        runner, weights, kept = model.runner.at(index), model.layers[index], select(ranking, layer)
        dense = runner.layer(weights, dense)
        pruned = runner.layer(prune_attention(shape, weights, kept) | prune_ffn(weights, kept), pruned)
    task: Any = SimpleNamespace(
        **{name: getattr(model, name) for name in ("head", "embedding", "layers", "source", "runner")},
        windows=ids,
        store=ArrayStore(),
    )
    exact = model.head.kl(model.head.targets(dense), pruned)
    assert MaskedModel(task, units)((mask, None)) == pytest.approx(exact, rel=1e-4)


@pytest.fixture(scope="module")
def improved(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Any]:
    """A search in parameters, whose knapsack a mask beats."""
    task = problem(lab, tmp_path_factory.mktemp("improved"), constraints=[lab.keep(0.6)])
    return task, METHOD.search(task)


@pytest.fixture(scope="module")
def searched(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Any]:
    task = problem(lab, tmp_path_factory.mktemp("policy"))
    return task, METHOD.search(task)


def rows(task: Problem) -> list[dict[str, Any]]:
    return [json.loads(line) for line in task.trace._path.read_text().splitlines()]


def test_a_search_keeps_its_milliseconds_at_every_step_and_in_its_plan(searched: tuple[Problem, Any]) -> None:
    task, found = searched
    (limit,) = task.constraints
    spent = [row["expected"]["latency"] for row in rows(task) if "expected" in row]
    assert len(spent) > 50
    assert all(cost == pytest.approx(limit.limit, rel=0.01) for cost in spent)
    assert 0.9 * limit.limit < TABLE.predict(found.plan) <= limit.limit * (1 + 1e-9)
    assert Plan(tuple(s.shape for s in found.selections)) == found.plan


def test_a_search_improves_on_the_plan_it_starts_from(improved: tuple[Problem, Any]) -> None:
    task, found = improved
    start, *refined = (row["value"] for row in rows(task) if row["key"].startswith("plan "))
    heldout = [row["value"] for row in rows(task) if row["key"].startswith("heldout ")]
    assert min(heldout[1:]) < heldout[0]
    assert found.fitness == min(refined) < start
    rankings = [
        replace(r, groups=_first(r.groups, s.kv_heads), channels=_first(r.channels, s.channels))
        for r, s in zip(task.rankings, found.selections, strict=True)
    ]
    again = PlanEvaluator(replace(task, rankings=rankings)).evaluate((found.plan, 1))
    assert again == pytest.approx(found.fitness, rel=1e-3)


def _first(order: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    chosen = torch.isin(order, kept)
    return torch.cat([order[chosen], order[~chosen]])


def test_a_plan_that_no_mask_improves_is_kept(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitness = iter([1.0, 2.0, 0.1, 0.2, 0.3])  # the two tables' plans come first
    monkeypatch.setattr(
        "lathe.compressor.search.methods.policy_gradient.PlanEvaluator.evaluate", lambda *_: next(fitness)
    )
    found = METHOD.search(problem(lab, tmp_path, evaluations=20))
    assert found.fitness == 0.1
    ranked = lab.problem(tmp_path).rankings
    assert all(
        s.channels.equal(select(r, s.shape).channels) for r, s in zip(ranked, found.selections, strict=True)
    )


def test_a_search_that_was_killed_finds_the_same_and_measures_nothing_twice(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = METHOD.search(problem(lab, tmp_path / "whole", evaluations=24))
    (tmp_path / "torn").mkdir()
    lines = (tmp_path / "whole" / "trace.jsonl").read_text().splitlines(keepends=True)
    masks = [at for at, line in enumerate(lines) if '"mask ' in line]
    (tmp_path / "torn" / "trace.jsonl").write_text("".join(lines[: masks[11]]) + lines[masks[11]][:20])
    counted, call = [], MaskedModel.__call__
    monkeypatch.setattr(MaskedModel, "__call__", lambda own, asked: counted.append(1) or call(own, asked))
    torn = problem(lab, tmp_path / "torn", evaluations=24)
    again = METHOD.search(torn)
    assert (again.plan, again.fitness) == (whole.plan, whole.fitness)
    for a, b in zip(again.selections, whole.selections, strict=True):
        assert a.channels.equal(b.channels)
        assert a.kv_heads.equal(b.kv_heads)
    assert 0 < len(counted) < 24 - 11 + 4
    other = METHOD.search(problem(lab, tmp_path / "seed", evaluations=24, seed=1))
    assert other.evaluations == whole.evaluations
    traces = [(tmp_path / name / "trace.jsonl").read_text() for name in ("whole", "seed")]
    seeds = [
        [json.loads(line)["value"] for line in trace.splitlines() if '"mask ' in line] for trace in traces
    ]
    assert seeds[0] != seeds[1]


def test_a_budget_that_needs_no_pruning_leaves_the_dense_model(lab: Lab, tmp_path: Path) -> None:
    shape = lab.source.shape
    roomy: list[Constraint] = [TABLE.constraint(make_space(shape), 1e3)]
    task = problem(lab, tmp_path, constraints=roomy)
    found = METHOD.search(task)
    assert found.plan == shape.dense_plan
    assert not any(row["key"].startswith("mask ") for row in rows(task))


def test_the_smallest_subnet_is_found_when_nothing_else_fits(lab: Lab, tmp_path: Path) -> None:
    budget = lab.keep(0.5)
    tight = replace(budget, limit=budget.cost(make_space(lab.source.shape).smallest))
    found = METHOD.search(problem(lab, tmp_path, constraints=[tight], evaluations=20))
    assert any(layer.kv_heads for layer in found.plan)
    assert tight.allows(found.plan)


def test_experts_are_refused(lab: Lab) -> None:
    shape = lab.source.shape
    with pytest.raises(UserError, match="not for mixtures of experts"):
        check(replace(shape, experts=4))
