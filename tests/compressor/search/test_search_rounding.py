"""Searches for widths and bits together: the tables they go by, and what a trace spares them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lathe.artefact.plan import BLOCK_KINDS, Plan
from lathe.compressor.model.rounding import BITS, quantize_matrix
from lathe.compressor.reconstruction.rounded_block import round_block
from lathe.compressor.reconstruction.rounded_head import round_head
from lathe.compressor.search import fitness as fitness_module
from lathe.compressor.search.evolution import Evaluate, Moves
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.knapsack import solve, total
from lathe.compressor.search.method import Problem
from lathe.compressor.search.methods import lathe
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.rounding_sensitivity import RoundingTable, priced, rounding_table
from lathe.compressor.search.space import Constraint, make_space, memory_constraint
from support.rounded_space import random_plans
from support.tiny_llama import PLANS, reference
from support.tiny_problem import Lab, make_lab

SHARES = {0: 4.0, 8: 1.0, 4: 0.5}
"""Bytes of a weight by its bits."""


def space_of(lab: Lab) -> MixedSpace:
    return MixedSpace(make_space(lab.source.shape), BITS)


def bytes_of(lab: Lab, share: float) -> Constraint:
    """A budget of so much of what the dense model takes."""
    shape = lab.source.shape
    dense = shape.weight_bytes(shape.dense_plan, 4)
    return memory_constraint(space_of(lab), shape, share * dense, weight_bytes=SHARES, kv_bytes=4, tokens=0)


def problem(lab: Lab, path: Path, **changes: Any) -> Problem:
    path.mkdir(exist_ok=True)
    facts = {"mixed": space_of(lab), "fitted": lab.windows[lab.heldout], "constraints": [bytes_of(lab, 0.3)]}
    return lab.problem(path, **facts | changes)


def measured(problem: Problem) -> RoundingTable:
    return rounding_table(problem, PlanEvaluator(problem).stage(0))


@torch.no_grad()
def divergence(problem: Problem, changed: dict[str, torch.Tensor]) -> float:
    """KL of transformers' logits on the windows that candidates are evaluated on, with other tensors."""
    model, ids = reference(problem.source, PLANS["dense"]), problem.windows
    dense = model(ids).logits.log_softmax(-1)
    state = model.state_dict()
    model.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in changed.items()})
    subnet = model(ids).logits.log_softmax(-1)
    return float((dense.exp() * (dense - subnet)).sum(-1).mean())


def grams_of(problem: Problem, layer: int) -> dict[str, torch.Tensor]:
    """X^T X / n of every matrix of a layer, by hooks on transformers."""
    model, found = reference(problem.source, PLANS["dense"]), {}
    prefix = f"model.layers.{layer}."

    def hook(name: str) -> Any:
        def seen(_module: Any, inputs: tuple[torch.Tensor], _output: Any) -> None:
            x = inputs[0].flatten(0, -2).double()
            found[f"{name}.weight"] = x.T @ x / len(x)

        return seen

    for name, module in model.named_modules():
        if name.startswith(prefix) and isinstance(module, torch.nn.Linear):
            module.register_forward_hook(hook(name.removeprefix(prefix)))
    with torch.no_grad():
        model(problem.fitted)
    return found


def replaying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of blocks are measured on all windows through all blocks above, not estimated."""
    monkeypatch.setattr(fitness_module, "_REPLAY_FROM", 0.0)
    monkeypatch.setattr(fitness_module, "_REPLAYED", 1)


def expected(problem: Problem) -> dict[tuple[int, int], float]:
    """The table of blocks, from transformers alone, by position and bits."""
    found = {}
    for position in range(2 * len(problem.layers)):
        layer, kind = position // 2, BLOCK_KINDS[position % 2]
        names = "self_attn." if kind == "attention" else "mlp."
        grams = {n: g for n, g in grams_of(problem, layer).items() if n.startswith(names)}
        for bits in BITS:
            rounded = round_block(problem.layers[layer], grams, bits=bits)
            assert set(rounded) == set(grams)
            changed = {f"model.layers.{layer}.{name}": matrix.values for name, matrix in rounded.items()}
            found[position, bits] = divergence(problem, changed)
    return found


def test_rounding_a_block_moves_the_whole_model_so_far(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaying(monkeypatch)
    asked = problem(lab, tmp_path)
    table = measured(asked)
    assert table.blocks.shape == (8, 2)
    for (position, bits), direct in expected(asked).items():
        found = table.blocks[position, BITS.index(bits)]
        assert found == pytest.approx(direct, rel=0.02, abs=2e-5)
        assert (bits == 8) == (found < 1e-4), "both sides of the comparison tell the formats apart"


def test_estimates_are_of_the_size_of_what_replays_measure(lab: Lab, tmp_path: Path) -> None:
    asked = problem(lab, tmp_path)
    table, direct = measured(asked), expected(asked)
    for position in range(8):
        assert table.blocks[position, 1] == pytest.approx(direct[position, 4], rel=0.5)


@pytest.mark.parametrize("tied", [False, True])
def test_rounding_embedding_and_head_moves_the_whole_model_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    replaying(monkeypatch)
    asked = problem(make_lab(tmp_path / "model", tie_word_embeddings=tied), tmp_path / "run")
    head, names = measured(asked).head, ["model.embed_tokens.weight", "lm_head.weight"]
    tables = {name: asked.source.tensor(name if not tied else names[0]) for name in names}
    rounded = {name: quantize_matrix(table, 8, [64, 32]).values for name, table in tables.items()}
    found = round_head(asked.model, asked.fitted, 4)
    few = {name: found[name if not tied else names[0]].values for name in names}
    assert head[0] == 0
    assert head[1] == pytest.approx(divergence(asked, rounded), rel=0.02)
    assert head[2] == pytest.approx(divergence(asked, few), rel=0.02)
    assert head[2] > 10 * head[1]


def test_what_the_trace_has_is_not_measured_again(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(problem(lab, tmp_path))
    lines = (tmp_path / "trace.jsonl").read_text().splitlines()
    assert len(lines) == 8 * 2 + 3
    monkeypatch.setattr(Fitness, "changed", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(Fitness, "measure_ends", lambda *_: pytest.fail("measured again"))
    again = measured(problem(lab, tmp_path))
    assert np.array_equal(again.blocks, first.blocks)
    assert np.array_equal(again.head, first.head)
    assert (tmp_path / "trace.jsonl").read_text().splitlines() == lines


def test_a_table_that_was_cut_short_is_completed(lab: Lab, tmp_path: Path) -> None:
    first, trace = measured(problem(lab, tmp_path)), tmp_path / "trace.jsonl"
    trace.write_text("".join(line + "\n" for line in trace.read_text().splitlines()[:7]))
    again = measured(problem(lab, tmp_path))
    assert np.array_equal(again.blocks, first.blocks)
    assert np.array_equal(again.head, first.head)


def table_of(lab: Lab, path: Path) -> tuple[RoundingTable, np.ndarray]:
    """Any sensitivities of rounding and of pruning."""
    asked, rng = problem(lab, path), np.random.default_rng(0)
    pruning = np.empty(8, dtype=object)
    for block, (_, kind) in enumerate(asked.space.blocks):
        pruning[block] = np.cumsum([0.0, *rng.random(len(asked.space.levels(kind)) - 1)])
    return RoundingTable(asked, rng.random((8, 2)), np.array([0.0, 0.7, 0.9])), pruning


@pytest.mark.parametrize("head_bits", [0, 8, 4])
def test_sensitivities_of_both_kinds_add_up(lab: Lab, tmp_path: Path, head_bits: int) -> None:
    table, pruning = table_of(lab, tmp_path)
    space, joined, shape = space_of(lab), table.joined(pruning), lab.source.shape
    assert [len(row) for row in joined] == [len(space.levels(kind)) for _, kind in space.blocks]
    for plan in random_plans(space, 4, 30, head_bits):
        by_hand = {0: 0.0, 8: 0.7, 4: 0.9}[head_bits]
        for layer, kept in enumerate(plan):
            for number, kind in enumerate(BLOCK_KINDS):
                count = shape.attention_parameters if kind == "attention" else shape.ffn_parameters
                if bits := kept.bits(kind):
                    share = count(kept) / count(shape.layer)
                    by_hand += table.blocks[2 * layer + number, BITS.index(bits)] * share
        assert table.of(plan) == pytest.approx(by_hand)
        widths = total(make_space(shape), pruning, plan.unrounded)
        assert total(space, joined, plan) == pytest.approx(widths + by_hand)


def test_rounding_alone_is_chosen_where_it_is_enough(lab: Lab, tmp_path: Path) -> None:
    found = lathe.search(problem(lab, tmp_path, constraints=[bytes_of(lab, 0.3)], evaluations=1)).plan
    assert found.unrounded == PLANS["dense"]
    assert {layer.bits(kind) for layer in found for kind in BLOCK_KINDS} <= {8, 4}


@pytest.mark.parametrize("evaluations", [1, 120])
def test_a_search_keeps_its_budget_uses_both_and_repeats_by_seed(
    lab: Lab, tmp_path: Path, evaluations: int
) -> None:
    budget = bytes_of(lab, 0.12)
    facts: dict[str, Any] = {"constraints": [budget], "evaluations": evaluations}
    asked = problem(lab, tmp_path / "a", **facts)
    found, again = lathe.search(asked), lathe.search(problem(lab, tmp_path / "b", **facts))
    assert 0.9 * budget.limit < budget.cost(found.plan) <= budget.limit
    assert found.plan.rounded
    assert found.plan.unrounded != PLANS["dense"]
    assert tuple(s.shape for s in found.selections) == found.plan.unrounded.layers
    assert (found.plan, found.fitness) == (again.plan, again.fitness)
    alone = PlanEvaluator(asked).stage(1 if evaluations > 1 else 0).evaluate(found.plan.unrounded)
    assert found.fitness == pytest.approx(alone + measured(asked).of(found.plan), abs=1e-6)


def test_plans_of_the_same_widths_share_one_evaluation(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = problem(lab, tmp_path)
    widths = [
        PLANS["groups"],
        PLANS["groups"],
        PLANS["heads per group"],
        PLANS["dense"],
        PLANS["no ffn last"],
    ]
    plans = [
        w.replace(0, replace(w[0], ffn_bits=bits)) for w, bits in zip(widths, (0, 8, 4, 0, 0), strict=True)
    ]
    values: list[float] = []

    def evolve(_start: object, _moves: object, evaluate: Evaluate, *_: object) -> list[tuple[float, Plan]]:
        values.extend(evaluate(plans, 0))
        return [(0.0, plans[0])]

    monkeypatch.setattr(lathe, "evolve", evolve)
    lathe.search(asked)
    stage, rounding = PlanEvaluator(asked).stage(0), measured(asked)
    alone = [stage.evaluate(plan.unrounded) for plan in plans]
    assert values == pytest.approx([a + rounding.of(p) for a, p in zip(alone, plans, strict=True)], abs=1e-6)
    assert (tmp_path / "trace.jsonl").read_text().count('"plan 0') == 4


@pytest.mark.parametrize("share", [0.05, 0.12, 0.6])
def test_moves_of_width_and_bits_keep_the_budget(lab: Lab, tmp_path: Path, share: float) -> None:
    table, pruning = table_of(lab, tmp_path)
    space, budget = space_of(lab), bytes_of(lab, share)
    moves, plan = Moves(space, [budget], table.joined(pruning), random.Random(0)), space.smallest
    for _ in range(60):
        plan = moves.mutate(plan)
        assert budget.allows(plan)
        assert any(layer.kv_heads for layer in plan)


def test_a_given_plan_counts_its_rounding(lab: Lab, tmp_path: Path) -> None:
    asked = problem(lab, tmp_path)
    layer = replace(PLANS["groups"][0], attention_bits=8, ffn_bits=4)
    plan = PLANS["groups"].replace(0, layer)
    found, plain = (lathe.evaluate_given_plan(asked, given) for given in (plan, plan.unrounded))
    assert found.plan == plan
    assert found.fitness == pytest.approx(plain.fitness + measured(asked).of(plan))
    assert found.fitness > plain.fitness


def test_of_plans_that_lose_about_the_same_the_cheaper_is_found(lab: Lab) -> None:
    """Eight bits lose a little, four a lot: within a budget for some blocks in eight bits, all have them."""
    space, budget = space_of(lab), bytes_of(lab, 0.7)
    losses = {0: 0.0, 8: 1e-5, 4: 1.0}
    table = np.empty(2 * lab.source.shape.num_layers + 1, dtype=object)
    for position, (_, kind) in enumerate(space.blocks):
        levels = space.levels(kind)
        rows = (
            [losses[bits] for bits in levels]
            if kind == "head"
            else [float(width > 0) + losses[bits] for width, bits in map(space.at, range(len(levels)))]
        )
        table[position] = np.array(rows)
    cheap = solve(space, priced(table, space, [budget]), [budget])
    spent = solve(space, table, [budget])
    assert cheap is not None
    assert spent is not None
    assert cheap.unrounded == spent.unrounded == PLANS["dense"]
    assert {layer.bits(kind) for layer in cheap for kind in BLOCK_KINDS} == {cheap.head_bits} == {8}
    assert budget.cost(cheap) < 0.5 * budget.limit < budget.cost(spent)
