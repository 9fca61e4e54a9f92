"""The default method: damage table, knapsack, then evolution on reformed candidates, judged by KL."""

from __future__ import annotations

import json
import random
from functools import partial

import numpy as np
import torch

from compressor.plan import Plan
from compressor.search.bank import Bank
from compressor.search.evolution import Moves, evolve, has_attention
from compressor.search.fitness import Fitness
from compressor.search.knapsack import solve
from compressor.search.method import Found, Method, Problem, methods
from compressor.surgery import select

_STAGE_TOKENS = (1024, 4096)
_EXPONENTS = (1.0, 0.75, 0.5)
_EVALUATIONS = 320


def search(problem: Problem) -> Found:
    """The best plan of the budget by KL(dense || subnet) with every block reformed."""
    stages = _stages(problem)
    damage = damage_table(problem, stages[0])
    moves = Moves(problem.space, problem.constraints, damage, random.Random(problem.seed))
    solved = [solve(problem.space, damage**e, problem.constraints) for e in _EXPONENTS]
    seeds = [p for p in solved if p and has_attention(p)] or [moves.mutate(problem.space.smallest)]

    def judge(plan: Plan, stage: int) -> float:
        key = f"plan {stage} {json.dumps(problem.space.indices(plan))}"
        bar.advance()
        return problem.trace.judge(key, lambda: stages[stage].kl(plan), **_facts(problem, plan))

    with problem.progress.stage("search: evolution", problem.evaluations) as bar:
        ranked = evolve(
            seeds, moves, judge, problem.evaluations, lambda best: bar.note(f"KL {best:.4f} nats/token")
        )
    fitness, plan = ranked[0]
    selections = [select(order, layer) for order, layer in zip(problem.orders, plan, strict=True)]
    return Found(plan, selections, fitness, problem.trace.asked)


def damage_table(problem: Problem, fitness: Fitness) -> np.ndarray:
    """Object array [blocks] of [levels]: KL in nats per token of each block at each level, alone.

    Made monotone: a narrower level never counts as less harmful than a wider one.
    """
    blocks = list(problem.space.blocks)
    table = np.empty(len(blocks), dtype=object)
    total = sum(len(problem.space.levels(kind)) - 1 for _, kind in blocks)
    with problem.progress.stage("search: damage of each block at each level", total) as bar:
        for position, (_, kind) in enumerate(blocks):
            values = [0.0]
            for level in range(1, len(problem.space.levels(kind))):
                key = f"damage {position} {level}"
                value = problem.trace.judge(key, partial(fitness.damage, position, level))
                values.append(max(0.0, value))
                bar.advance()
            table[position] = np.array(values)
            if kind == "ffn":
                table[position] = np.maximum.accumulate(table[position])
    return table


def _stages(problem: Problem) -> list[Fitness]:
    family, shape = problem.source.family, problem.source.shape
    kinds = {"attention": 0, "ffn": 1}
    bank = Bank(
        family,
        shape,
        problem.layers,
        problem.orders,
        lambda layer, kind: (getattr(problem.statistics[layer], kind), problem.dampings[layer][kinds[kind]]),
    )
    length, stages = problem.windows.shape[1], []
    for tokens in _STAGE_TOKENS:
        count = min(len(problem.windows), max(1, tokens // length))
        windows = problem.windows[torch.linspace(0, len(problem.windows) - 1, count).round().long()]
        embedded = problem.embedding[windows]
        stages.append(
            Fitness(
                problem.runner,
                problem.head,
                problem.space,
                embedded,
                lambda layer, _kind, _level: problem.layers[layer],
                bank.block,
            )
        )
    return stages


def _facts(problem: Problem, plan: Plan) -> dict[str, object]:
    return {"costs": {c.name: round(c.cost(plan), 6) for c in problem.constraints}}


methods.add(
    "lathe",
    Method(
        "lathe", order="elimination", reform="gauss-newton", search=search, default_evaluations=_EVALUATIONS
    ),
)
