"""Fitness against transformers' logits, however candidates follow one another."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.pruning import ImportanceRanking
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.space import make_space
from support.tiny_llama import PLANS, reference
from support.tiny_problem import Lab


def fitness(lab: Lab, path: Path, reconstructed: bool = True) -> Fitness:
    problem = lab.problem(path)

    ranks = problem.rankings
    if not reconstructed:
        ranks = [ImportanceRanking(torch.arange(4), torch.arange(8).view(4, 2), torch.arange(96))] * 4
    library = BlockLibrary(lab.source.shape, lab.layers, ranks)
    if reconstructed:
        fitted = lab.statistics, problem.dampings
        library = BlockLibrary(lab.source.shape, lab.layers, ranks, *fitted)

    def dense(layer: int, _kind: str, _level: object) -> Weights:
        return lab.layers[layer]

    return Fitness(lab.runner, lab.head, problem.space, lab.windows[:6], lab.embedding, dense, library.block)


def plans(lab: Lab, count: int) -> list[Plan]:
    space, rng = make_space(lab.source.shape), random.Random(5)
    return [
        space.plan(rng.randrange(len(space.levels(kind))) for _, kind in space.blocks) for _ in range(count)
    ]


def test_the_dense_plan_has_no_divergence(lab: Lab, tmp_path: Path) -> None:
    assert fitness(lab, tmp_path).evaluate(PLANS["dense"]) == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_divergence_is_that_of_the_two_models_logits(lab: Lab, tmp_path: Path) -> None:
    evaluator, ids = fitness(lab, tmp_path, reconstructed=False), lab.windows[:6]
    dense = reference(lab.source, PLANS["dense"])(ids).logits.log_softmax(-1)
    for name in ("groups", "whole layers", "no ffn last"):
        subnet = reference(lab.source, PLANS[name])(ids).logits.log_softmax(-1)
        direct = (dense.exp() * (dense - subnet)).sum(-1).mean()
        assert evaluator.evaluate(PLANS[name]) == pytest.approx(float(direct), rel=1e-3)


def test_shared_leading_blocks_change_no_bit(lab: Lab, tmp_path: Path) -> None:
    shared, candidates = fitness(lab, tmp_path), plans(lab, 8)
    near = [candidates[0].replace(3, p[3]) for p in candidates]
    for plan in [*near, *candidates, *reversed(near)]:
        assert shared.evaluate(plan) == fitness(lab, tmp_path).evaluate(plan)


def test_damage_of_a_block_is_the_divergence_with_all_others_dense(lab: Lab, tmp_path: Path) -> None:
    evaluator, space = fitness(lab, tmp_path), make_space(lab.source.shape)
    evaluator.evaluate(plans(lab, 1)[0])
    for position in range(8):
        indices = [0] * 8
        indices[position] = 3
        alone = evaluator.evaluate(space.plan(indices))
        assert evaluator.replayed(position, [5, 3])[1] == pytest.approx(alone, abs=1e-6)


@torch.no_grad()
def test_loss_is_the_cross_entropy_of_transformers(lab: Lab) -> None:
    model, ids = reference(lab.source, PLANS["dense"]), lab.windows[:7]
    hidden = lab.embedding[ids]
    for layer in lab.layers:
        hidden = lab.runner.ffn(layer, lab.runner.attention(layer, hidden))
    assert lab.head.loss(ids, hidden) == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-5)
