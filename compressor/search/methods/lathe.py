"""The default method: a table of each block's sensitivity at each level, and a knapsack over it.

The table is made once, so that a front costs hardly more than one of its points. Evaluations beyond the one
of the plan itself go to an evolutionary search from there, which is rarely worth it: the fitness of whole
plans before the final reconstruction is dominated by errors that it removes (docs/experiments.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.calibration.tokens import cut, evenly_spaced
from lathe.compressor.model.pruning import select_plan
from lathe.compressor.search.block_library import MOST_BYTES, BlockLibrary
from lathe.compressor.search.evolution import Moves, evolve, has_attention
from lathe.compressor.search.fitness import Block, Fitness
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Method, Problem, SearchResult, methods
from lathe.compressor.search.plan_fitness import plan_fitness
from lathe.compressor.search.rounding_sensitivity import priced, rounding_table
from lathe.compressor.search.space import Level, Space

_STAGE_TOKENS = (2048, 8192)
MEASURED = 5
"""Levels of a block that are evaluated."""
_LENGTH = 256


def make_block_library(problem: Problem) -> BlockLibrary:
    """Returns the library of pruned blocks after the closed-form reconstruction."""
    return BlockLibrary(
        problem.source.shape,
        problem.layers,
        problem.rankings,
        problem.statistics,
        problem.dampings,
        0 if problem.store.bounded else MOST_BYTES,
    )


def search(
    problem: Problem,
    library: Callable[[Problem], BlockLibrary] = make_block_library,
    fitness: type[Fitness] = Fitness,
    measured: int = MEASURED,
) -> SearchResult:
    """Finds the plan of least summed sensitivity in the budget, or the best that evolutionary search finds.

    The evolutionary search goes by KL(dense || subnet) with every block reconstructed, on text that no
    statistics were taken from.

    Args:
        problem: The problem.
        library: Makes the blocks of candidates.
        fitness: Evaluates plans.
        measured: As in `sensitivity_table`.
    """
    evaluator = PlanEvaluator(problem, library, fitness)
    sensitivities = sensitivity_table(problem, evaluator, measured)
    rounding = rounding_table(problem, evaluator.stage(0)) if problem.mixed else None
    if rounding:
        sensitivities = priced(rounding.joined(sensitivities), problem.choices, problem.constraints)

    measure = evaluator.evaluate

    def evaluate(plans: Sequence[Plan], number: int) -> list[float]:
        values = []
        for plan, value in zip(plans, plan_fitness(problem, measure, plans, number), strict=True):
            values.append(value + (rounding.of(plan) if rounding else 0.0))
            bar.advance()
        return values

    with problem.progress.stage("search: plans", problem.evaluations) as bar:
        moves = moves_of(problem, sensitivities)
        ranked = evolve(
            [least_harmful(problem, moves)],
            moves,
            evaluate,
            problem.evaluations,
            lambda best: bar.note(f"KL {best:.4f} nats/token"),
        )
    best, plan = ranked[0]
    return search_result(problem, plan, best)


def moves_of(problem: Problem, sensitivities: np.ndarray) -> Moves:
    """Returns the moves between plans of a problem."""
    return Moves(problem.choices, problem.constraints, sensitivities, random.Random(problem.seed))


def least_harmful(problem: Problem, moves: Moves) -> Plan:
    """Returns the knapsack's plan, or a random one within the budgets where that would drop all attention.

    Raises:
        UserError: no plan within that of the problem is in the budgets and keeps attention.
    """
    plan = solve(problem.choices, moves.sensitivities, problem.constraints, problem.within)
    if plan and has_attention(plan):
        return plan
    if problem.within is not None:
        raise UserError(
            "no subnet within the next larger one meets its target and keeps an attention block",
            "Give targets that are nearer to each other, or none so far from the dense model.",
        )
    return moves.mutate(problem.choices.smallest)


def evaluate_given_plan(problem: Problem, plan: Plan) -> SearchResult:
    """Evaluates a plan that was given as the last stage of a search does."""
    evaluator, widths = PlanEvaluator(problem), plan.unrounded
    key = f"given {json.dumps(problem.space.indices(widths))}"
    value = problem.trace.evaluate(key, partial(evaluator.evaluate, (widths, 1)))
    if plan.rounded:
        value += rounding_table(problem, evaluator.stage(0)).of(plan)
    return search_result(problem, plan, value)


def search_result(problem: Problem, plan: Plan, value: float) -> SearchResult:
    """Returns the result of a search that ends with this plan: the first units of every ranking."""
    selections = select_plan(problem.rankings, plan)
    return SearchResult(plan, selections, value, problem.trace.asked)


def measure_sensitivities(problem: Problem, measured: int = MEASURED) -> np.ndarray:
    """Makes the table of `search` by itself; plans for every budget come from it."""
    evaluator = PlanEvaluator(problem)
    sensitivities = sensitivity_table(problem, evaluator, measured)
    if problem.mixed is None:
        return sensitivities
    return rounding_table(problem, evaluator.stage(0)).joined(sensitivities)


def sensitivity_table(problem: Problem, evaluator: PlanEvaluator, measured: int = MEASURED) -> np.ndarray:
    """Makes the table of KL in nats per token of each block at each level, with all other blocks dense.

    Between the measured levels the root of the sensitivity is interpolated: it is nearly linear in the root
    of the squared error of the block's output.

    Args:
        problem: The problem.
        evaluator: Evaluates its blocks.
        measured: The number of levels of a block that are evaluated: those at even steps in the root of the
            output's squared error, the dropped block among them. Of FFNs of experts all levels are.

    Returns:
        An object array [blocks] of float arrays [levels of that block].
    """
    blocks = [(at, (at // 2, BLOCK_KINDS[at % 2])) for at in range(2 * problem.space.layers)]
    roots = [problem.errors[layer][kind].sqrt().numpy() for _, (layer, kind) in blocks]
    at = [_measured_levels(problem.space, kind, roots[position], measured) for position, (_, kind) in blocks]
    unknown = [
        (position, asked)
        for position, levels in enumerate(at)
        if (asked := [level for level in levels if not problem.trace.knows(_key(position, level))])
    ]
    results, computed = problem.workers.map(evaluator.sensitivities, unknown), dict(unknown)
    table = np.empty(len(blocks), dtype=object)
    with problem.progress.stage("search: sensitivity of each block at each level", len(table)) as bar:
        for position, _ in blocks:
            found = next(results) if position in computed else {}
            values = [_recorded(problem, position, level, found) for level in at[position]]
            table[position] = _interpolated(problem, position, at[position], values, roots[position])
            bar.advance()
    return table


def _recorded(problem: Problem, position: int, level: int, found: Mapping[int, float]) -> float:
    """Returns a measured sensitivity, from the trace or newly found and recorded there; never negative."""
    layer, kind = position // 2, BLOCK_KINDS[position % 2]
    value = problem.trace.evaluate(
        _key(position, level),
        partial(found.__getitem__, level),
        layer=layer,
        block=kind,
        kept=problem.space.levels(kind)[level],
    )
    return max(0.0, value)


def _interpolated(
    problem: Problem, position: int, measured: list[int], values: list[float], roots: np.ndarray
) -> np.ndarray:
    """Returns the sensitivities of a block at all levels from those at some levels.

    Where levels are nested, they are made monotone: a narrower one never counts as less harmful than a wider
    one.
    """
    row = np.interp(roots, [0.0, *roots[measured]], np.sqrt([0.0, *values])) ** 2
    row[[0, *measured]] = [0.0, *values]
    nested = _nested(problem.space.levels(BLOCK_KINDS[position % 2]))
    return np.maximum.accumulate(row) if nested else row


def _key(position: int, level: int) -> str:
    """Returns the key of a block's sensitivity in the trace."""
    return f"damage {position} {level}"


def _measured_levels(space: Space, kind: BlockKind, roots: np.ndarray, measured: int) -> list[int]:
    """Returns the indices of a block's levels that are evaluated."""
    levels = space.levels(kind)
    every = kind == "ffn" and not _nested(levels)
    return _evenly_spaced(roots, len(levels) if every else measured)


def _evenly_spaced(roots: np.ndarray, count: int) -> list[int]:
    """Returns indices of the levels nearest to even steps of these values, by ascending value.

    The level of the dense block is not among them.
    """
    steps = np.linspace(0.0, roots.max(), count + 1)[1:]
    found = {1 + int(np.abs(roots[1:] - step).argmin()) for step in steps}
    if count >= len(roots) - 1:
        found = set(range(1, len(roots)))
    return sorted(found, key=lambda level: (roots[level], level))


def _nested(levels: Sequence[Level]) -> bool:
    """Tells whether levels differ in one number, so that each is contained in the one before it."""
    return isinstance(levels[0], int)


class PlanEvaluator:
    """Evaluates the plans of a problem at every stage of a search.

    What it needs is made on first use, so that it may travel to workers.

    Args:
        problem: The problem.
        library: Makes the blocks of candidates.
        fitness: Evaluates plans.
        tokens: The number of tokens of each stage.
        length: The most tokens of a window.
    """

    def __init__(
        self,
        problem: Problem,
        library: Callable[[Problem], BlockLibrary] = make_block_library,
        fitness: type[Fitness] = Fitness,
        tokens: Sequence[int] = _STAGE_TOKENS,
        length: int = _LENGTH,
    ) -> None:
        self._problem, self._library, self._fitness = problem, library, fitness
        self._tokens, self._length = tokens, length
        self._stages: dict[int, Fitness] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends the arguments alone."""
        return PlanEvaluator, (self._problem, self._library, self._fitness, self._tokens, self._length)

    def sensitivities(self, asked: tuple[int, list[int]]) -> dict[int, float]:
        """Returns KL by level for (block, levels)."""
        position, levels = asked
        return dict(zip(levels, self.stage(0).sensitivities(position, levels), strict=True))

    def evaluate(self, asked: tuple[Plan, int]) -> float:
        """Returns the fitness for (plan, number of the stage)."""
        plan, number = asked
        return self.stage(number).evaluate(plan)

    def stage(self, number: int) -> Fitness:
        """Returns the evaluator of a stage, on as many tokens as the stage has.

        Its windows are spread over the text: many short ones evaluate better than few long ones.
        """
        if number not in self._stages:
            self._stages[number] = self._new_stage(self._tokens[number])
        return self._stages[number]

    @cached_property
    def _blocks(self) -> Block:
        return self._library(self._problem).block

    def _new_stage(self, tokens: int) -> Fitness:
        problem = self._problem
        windows = cut(problem.windows, self._length)
        windows = evenly_spaced(windows, max(1, tokens // windows.shape[1]))
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


LATHE = Method(
    "lathe",
    importance="elimination",
    reconstruction="gauss-newton",
    search=search,
    default_evaluations=1,
    whole_rounds=3,
    by_gradients=True,
    sensitivities=measure_sensitivities,
)
methods.add(LATHE.name, LATHE)
