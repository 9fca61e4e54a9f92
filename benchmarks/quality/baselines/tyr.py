"""Týr-the-Pruner (Li et al., NeurIPS 2025, arXiv 2503.09657): uneven widths, searched in a pruned supernet.

Four rounds (Alg. 4), each with a supernet of nine widths per block around the widths found so far, an
interval of 12.5 % of a block's units, halved from round to round, and an evolutionary search (Alg. 3, after
EvoPress): every generation mutates the one parent by shifting sparsity between blocks of the same kind, one
to four times (few more often, as in the authors' code), and selects in three stages of growing token counts
by KL to the dense model, windows drawn anew; the parent takes part in the last. The result has the weights of
the last supernet. Attention and FFN both start at `keep` and keep their sums, as in the paper.

Scaled down: 1,500 subnets evaluated in all (published: 25,600 for the 64 blocks of a 7B model), 25 offspring
a generation for 128, stages of 512, 2K and 4K tokens that keep 4, 2 and 1 for 2K, 16K and 128K that keep 16,
4 and 1. `candidates` counts offspring, not their later stages. Not scaled: local pruning reads all
calibration text, each round. Whether it has its first-order term is chosen on held-out text, at the widths of
the start. Chosen here: KV groups for heads, one group at least per step; total attention is rounded to whole
groups and the FFN takes what is left of the budget.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise

import torch

from benchmarks.quality.blocks import kinds
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.subnet_evaluator import Block, Levels, SubnetEvaluator
from benchmarks.quality.supernet import Structure, layers, supernet, widths_around
from lathe.artefact.plan import LayerShape, ModelShape, Plan

_CANDIDATES = 1500
_ROUNDS = 4
_INTERVAL = 0.125
_OFFSPRING = 25
_STAGES = ((512, 4), (2048, 2), (4096, 1))
"""Tokens and survivors."""


@baselines.register("tyr")
def tyr(setting: Setting, keep: float) -> Subnet:
    rng = random.Random(setting.seed)
    evaluator, plan, candidates = SubnetEvaluator(setting, rng), start(setting, keep), 0
    each = max(1, (setting.evaluations or _CANDIDATES) // _ROUNDS)
    first_order = helps(setting, plan)
    for number in range(_ROUNDS):
        structures = supernet(setting, widths_around(setting, plan, _INTERVAL / 2**number), first_order)
        plan, evaluated = evolve(setting, evaluator, structures, plan, each, rng)
        candidates += evaluated
    per_group = setting.shape.layer.heads_per_group
    shapes = zip(plan[::2], plan[1::2], strict=True)
    return setting.subnet(
        layers(setting, structures, plan),
        candidates=candidates,
        plan=Plan(tuple(LayerShape(groups * per_group, groups, ffn) for groups, ffn in shapes)),
    )


def helps(setting: Setting, plan: Levels) -> bool:
    """Whether local pruning to these widths alone loses less on held-out text with the first-order term."""
    without, having = (
        setting.loss(layers(setting, supernet(setting, [[w] for w in plan], term), plan), setting.heldout)
        for term in (False, True)
    )
    return having < without


def start(setting: Setting, keep: float) -> Levels:
    """Widths as even as whole units allow; attention at `keep`, the FFN fills the budget."""
    (attention, ffn), shape = kinds(setting), setting.shape
    unpruned = shape.num_layers * (attention.units * attention.parameters + ffn.units * ffn.parameters)
    budget = int(keep * setting.dense_parameters) - (setting.dense_parameters - unpruned)
    all_groups, all_channels = shape.num_layers * attention.units, shape.num_layers * ffn.units
    groups = min(round(keep * all_groups), max(0, budget) // attention.parameters)
    missing = budget - groups * attention.parameters - all_channels * ffn.parameters
    groups = min(all_groups, groups + max(0, missing // attention.parameters))
    channels = min(all_channels, max(0, budget - groups * attention.parameters) // ffn.parameters)
    widths = zip(_spread(groups, shape), _spread(channels, shape), strict=True)
    return tuple(width for pair in widths for width in pair)


def _spread(total: int, shape: ModelShape) -> list[int]:
    ends = [total * i // shape.num_layers for i in range(shape.num_layers + 1)]
    return [b - a for a, b in pairwise(ends)]


def evolve(
    setting: Setting,
    evaluator: SubnetEvaluator,
    structures: list[dict[int, Structure]],
    plan: Levels,
    evaluations: int,
    rng: random.Random,
) -> tuple[Levels, int]:
    """The best widths of a supernet and how many were evaluated. plan: the first parent."""
    block, evaluated = _blocks(setting, structures), 0
    while evaluated < evaluations:
        offspring: set[Levels] = set()
        for _ in range(10 * _OFFSPRING):
            child = mutate(structures, plan, rng)
            if child != plan:
                offspring.add(child)
            if len(offspring) == min(_OFFSPRING, evaluations - evaluated):
                break
        if not offspring:
            break
        evaluated += len(offspring)
        rivals = sorted(offspring)
        for tokens, survivors in _STAGES:
            last = survivors == 1
            rivals = [
                p for _, p in evaluator.best([*rivals, plan] if last else rivals, block, tokens, survivors)
            ]
        plan = rivals[0]
    return plan, evaluated


def mutate(structures: list[dict[int, Structure]], plan: Levels, rng: random.Random) -> Levels:
    """One to four shifts: a block to its next width up, another of the same kind to its next width down."""
    child = list(plan)
    for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
        ups = [i for i, w in enumerate(child) if w < max(structures[i])]
        if not ups:
            break
        up = rng.choice(ups)
        downs = [i for i, w in enumerate(child) if i % 2 == up % 2 and i != up and w > min(structures[i])]
        if downs:
            down = rng.choice(downs)
            child[up] = min(w for w in structures[up] if w > child[up])
            child[down] = max(w for w in structures[down] if w < child[down])
    return tuple(child)


def _blocks(setting: Setting, structures: list[dict[int, Structure]]) -> Block:
    both = kinds(setting)

    @cache
    def block(position: int, width: int) -> dict[str, torch.Tensor]:
        return structures[position][width].block(setting, position // 2, both[position % 2])

    return block
