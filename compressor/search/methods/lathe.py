"""The default method: a table of each block's sensitivity at each level, and a knapsack over it.

The table is made once, so that a front costs hardly more than one of its points. Evaluations beyond the one
of the plan itself go to an evolutionary search from there, which is rarely worth it: the fitness of whole
plans before the final reconstruction is dominated by errors that it removes (docs/experiments.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.model.pruning import select_plan
from lathe.compressor.search.block_library import BlockLibrary
from lathe.compressor.search.deep_plans import better_finalist, rival_of
from lathe.compressor.search.evolution import Moves, evolve, has_attention
from lathe.compressor.search.fitness import Fitness
from lathe.compressor.search.knapsack import solve
from lathe.compressor.search.method import Method, Problem, SearchResult, methods
from lathe.compressor.search.plan_evaluator import PlanEvaluator, make_block_library
from lathe.compressor.search.plan_fitness import plan_fitness
from lathe.compressor.search.rounding_sensitivity import priced, rounding_table
from lathe.compressor.search.sensitivity_table import MEASURED, sensitivity_table


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
    found, rival = search_result(problem, plan, best), rival_of(problem, sensitivities, plan)
    if rival is None:
        return found
    (value,) = plan_fitness(problem, measure, [rival], int(problem.evaluations > 1))
    return better_finalist(problem, found, search_result(problem, rival, value))


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
