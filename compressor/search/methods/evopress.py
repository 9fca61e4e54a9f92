"""EvoPress (Sieberling et al., ICML 2025, arXiv 2410.14649) on the levels and budgets of all searches.

It starts from the widest uniform plan and knows nothing of the blocks beforehand. Fitness is KL(dense ||
subnet) on held-out text, with the blocks of candidates reconstructed in closed form.

Published for 7B models: 64 offspring in each of 400 generations, up to three switches each, selected on
2,048, 16,384 and 65,536 tokens that keep 8, 2 and 1, drawn anew each time. Scaled down here, on windows that
stay the same: what was measured once is not measured again, by other seeds and budgets neither.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Bar
from lathe.compressor.search.evolution import Evaluate, Moves
from lathe.compressor.search.level_grid import LevelGrid
from lathe.compressor.search.level_switch import LevelSwitching, unguided
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.methods.fast import FAST
from lathe.compressor.search.methods.lathe import search_result
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.plan_fitness import plan_fitness
from lathe.compressor.search.uniform_plan import uniform_plan

OFFSPRING = 240
"""Offspring in all, 16 in a generation."""
TOKENS, SURVIVORS = (256, 1024, 2048), (4, 2, 1)
"""Of each stage of selection."""
_LENGTH = 128
_SWITCHES = 3


def search(problem: Problem) -> SearchResult:
    """Finds a plan by level switches; `evaluations` of the problem are offspring, whatever their stages."""
    with problem.progress.stage("search: plans", problem.evaluations) as bar:
        grid = LevelGrid.worthwhile(problem.space, problem.constraints)
        moves = unguided(grid, problem.constraints, random.Random(problem.seed))
        switching = LevelSwitching(moves, staged_fitness(problem, bar), SURVIVORS, _SWITCHES)
        value, plan = switching.run(
            uniform_start(problem, moves),
            problem.evaluations,
            noted(bar),
        )
    return search_result(problem, plan, value)


def staged_fitness(problem: Problem, bar: Bar) -> Evaluate:
    """Returns what evaluates plans at every stage of selection; each new plan advances the bar once."""
    measure = PlanEvaluator(problem, tokens=TOKENS, length=_LENGTH).evaluate

    def evaluate(plans: Sequence[Plan], stage: int) -> list[float]:
        values = []
        for value in plan_fitness(problem, measure, plans, stage):
            values.append(value)
            bar.advance(stage == 0)
        return values

    return evaluate


def noted(bar: Bar, beginning: str = "") -> Callable[[float], None]:
    """Returns what notes the best fitness so far."""
    return lambda best: bar.note(f"{beginning}KL {best:.4f} nats/token")


def uniform_start(problem: Problem, moves: Moves) -> Plan:
    """Returns the widest uniform plan, what is left of the budgets filled with wider blocks at random."""
    return moves.full(moves.space.indices(uniform_plan(problem)))


EVOPRESS = replace(FAST, name="evopress", search=search, default_evaluations=OFFSPRING, sensitivities=None)
methods.add(EVOPRESS.name, EVOPRESS)
