"""The default method: a table of each block's damage at each level, and a knapsack over it.

The table is made once, so that a front costs hardly more than one of its points. Evaluations beyond the
plan's own go to an evolution from there, which is rarely worth it: whole plans judged before their last
reform are dominated by errors that it removes (docs/experiments.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from lathe.artefact.plan import BlockKind, Plan
from lathe.compressor.model.pruning import select
from lathe.compressor.search.block_library import MOST, BlockLibrary
from lathe.compressor.search.evolution import Moves, evolve, has_attention
from lathe.compressor.search.fitness import Block, Fitness
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Method, Problem, SearchResult, methods
from lathe.compressor.search.space import Level, Space

_STAGE_TOKENS = (2048, 8192)
MEASURED = 5
_LENGTH = 256


def make_block_library(problem: Problem) -> BlockLibrary:
    """Cut blocks with the closed-form reform."""
    return BlockLibrary(
        problem.source.shape,
        problem.layers,
        problem.rankings,
        problem.statistics,
        problem.dampings,
        0 if problem.store.bounded else MOST,
    )


def search(
    problem: Problem,
    library: Callable[[Problem], BlockLibrary] = make_block_library,
    fitness: type[Fitness] = Fitness,
    measured: int = MEASURED,
) -> SearchResult:
    """The plan of least summed damage in the budget, or the best that an evolution from it finds, by
    KL(dense || subnet) with every block reformed, on text that no statistics were taken from. measured: as in
    `sensitivity_table`.
    """
    evaluator = PlanEvaluator(problem, library, fitness)
    sensitivities = sensitivity_table(problem, evaluator, measured)

    def evaluate(plans: Sequence[Plan], number: int) -> list[float]:
        keys = [f"plan {number} {json.dumps(problem.space.indices(plan))}" for plan in plans]
        unknown = [(p, number) for p, k in zip(plans, keys, strict=True) if not problem.trace.knows(k)]
        found, values = problem.workers.map(evaluator.evaluate, unknown), []
        for plan, key in zip(plans, keys, strict=True):
            values.append(problem.trace.evaluate(key, partial(next, found), **_facts(problem, plan)))
            bar.advance()
        return values

    with problem.progress.stage("search: plans", problem.evaluations) as bar:
        moves = Moves(problem.space, problem.constraints, sensitivities, random.Random(problem.seed))
        plan = solve(problem.space, sensitivities, problem.constraints)
        start = plan if plan and has_attention(plan) else moves.mutate(problem.space.smallest)
        ranked = evolve(
            [start], moves, evaluate, problem.evaluations, lambda best: bar.note(f"KL {best:.4f} nats/token")
        )
    best, plan = ranked[0]
    return _found(problem, plan, best)


def evaluate_given_plan(problem: Problem, plan: Plan) -> SearchResult:
    """A plan that was given, judged as the last stage of a search judges."""
    evaluator, key = PlanEvaluator(problem), f"given {json.dumps(problem.space.indices(plan))}"
    return _found(problem, plan, problem.trace.evaluate(key, partial(evaluator.evaluate, (plan, 1))))


def _found(problem: Problem, plan: Plan, value: float) -> SearchResult:
    selections = [select(order, layer) for order, layer in zip(problem.rankings, plan, strict=True)]
    return SearchResult(plan, selections, value, problem.trace.asked)


def measure_sensitivities(problem: Problem, measured: int = MEASURED) -> np.ndarray:
    """The table that `search` makes, by itself: what plans for every budget come from."""
    return sensitivity_table(problem, PlanEvaluator(problem), measured)


def sensitivity_table(problem: Problem, evaluator: PlanEvaluator, measured: int = MEASURED) -> np.ndarray:
    """Object array [blocks] of [levels]: KL in nats per token of each block at each level, alone.

    measured: levels of a block that are judged, those at even steps in the root of the squared error of its
    output, the dropped block among them; of FFNs of experts all. Between them the root of the damage, nearly
    linear in that, is interpolated. Where levels differ in one number they are made monotone: a narrower one
    never counts as less harmful than a wider one.
    """
    blocks = [*enumerate(problem.space.blocks)]
    roots = [problem.errors[layer][kind].sqrt().numpy() for _, (layer, kind) in blocks]
    at = [_at(problem.space, kind, roots[position], measured) for position, (_, kind) in blocks]
    unknown = [
        (position, asked)
        for position, levels in enumerate(at)
        if (asked := [level for level in levels if not problem.trace.knows(_key(position, level))])
    ]
    answers, computed = problem.workers.map(evaluator.sensitivities, unknown), dict(unknown)
    table = np.empty(len(blocks), dtype=object)
    with problem.progress.stage("search: damage of each block at each level", len(table)) as bar:
        for position, (layer, kind) in blocks:
            levels, found = problem.space.levels(kind), next(answers) if position in computed else {}
            values = [
                max(
                    0.0,
                    problem.trace.evaluate(
                        _key(position, level),
                        partial(found.__getitem__, level),
                        layer=layer,
                        block=kind,
                        kept=levels[level],
                    ),
                )
                for level in at[position]
            ]
            own = roots[position]
            table[position] = np.interp(own, [0.0, *own[at[position]]], np.sqrt([0.0, *values])) ** 2
            table[position][[0, *at[position]]] = [0.0, *values]
            if _one_by_one(levels):
                table[position] = np.maximum.accumulate(table[position])
            bar.advance()
    return table


def _key(position: int, level: int) -> str:
    return f"damage {position} {level}"


def _at(space: Space, kind: BlockKind, roots: np.ndarray, measured: int) -> list[int]:
    """Indices of a block's levels that are judged."""
    levels = space.levels(kind)
    every = kind == "ffn" and not _one_by_one(levels)
    return _evaluated(roots, len(levels) if every else measured)


def _evaluated(roots: np.ndarray, count: int) -> list[int]:
    """Indices of the levels nearest to even steps of these values, all but that of the dense block, by
    ascending value.
    """
    steps = np.linspace(0.0, roots.max(), count + 1)[1:]
    found = {1 + int(np.abs(roots[1:] - step).argmin()) for step in steps}
    if count >= len(roots) - 1:
        found = set(range(1, len(roots)))
    return sorted(found, key=lambda level: (roots[level], level))


def _one_by_one(levels: Sequence[Level]) -> bool:
    """Whether they differ in one number, so that each is within the one before it."""
    return isinstance(levels[0], int)


class PlanEvaluator:
    """Of a problem's plans, at every stage of a search; made where they are asked. tokens: of each stage."""

    def __init__(
        self,
        problem: Problem,
        library: Callable[[Problem], BlockLibrary] = make_block_library,
        fitness: type[Fitness] = Fitness,
        tokens: Sequence[int] = _STAGE_TOKENS,
    ) -> None:
        self._problem, self._bank, self._fitness, self._tokens = problem, library, fitness, tokens
        self._stages: dict[int, Fitness] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PlanEvaluator, (self._problem, self._bank, self._fitness, self._tokens)

    def sensitivities(self, asked: tuple[int, list[int]]) -> dict[int, float]:
        """(block, levels) -> KL by level."""
        position, levels = asked
        return dict(zip(levels, self.stage(0).sensitivities(position, levels), strict=True))

    def evaluate(self, asked: tuple[Plan, int]) -> float:
        """(plan, number of the stage) -> its fitness."""
        plan, number = asked
        return self.stage(number).evaluate(plan)

    def stage(self, number: int) -> Fitness:
        """A judge on as many tokens as the stage has, from windows all over the text: many short ones judge
        better than few long ones.
        """
        if number not in self._stages:
            self._stages[number] = self._made(self._tokens[number])
        return self._stages[number]

    @cached_property
    def _blocks(self) -> Block:
        return self._bank(self._problem).block

    def _made(self, tokens: int) -> Fitness:
        problem = self._problem
        length = min(_LENGTH, problem.windows.shape[1])
        windows = problem.windows.unfold(1, length, length).reshape(-1, length)
        count = min(len(windows), max(1, tokens // length))
        windows = windows[torch.linspace(0, len(windows) - 1, count).round().long()]
        return self._fitness(
            problem.runner,
            problem.head,
            problem.space,
            windows,
            problem.embedding,
            lambda layer, _kind, _level: problem.layers[layer],
            self._blocks,
            problem.store,
        )


def _facts(problem: Problem, plan: Plan) -> dict[str, object]:
    return {"costs": {c.name: round(c.cost(plan), 6) for c in problem.constraints}}


methods.add(
    "lathe",
    Method(
        "lathe",
        importance="elimination",
        reconstruction="gauss-newton",
        search=search,
        default_evaluations=1,
        whole_rounds=3,
        sensitivities=measure_sensitivities,
    ),
)
