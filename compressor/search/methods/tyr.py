"""Týr-the-Pruner (Li et al., NeurIPS 2025, arXiv 2503.09657) on the levels and budgets of all searches.

A supernet has every block at nine levels around a plan, the uniform one at first. An evolution by level
switches (Alg. 3), each between blocks of one kind, finds its best plan, which the next supernet is around,
with levels half as far apart. The blocks of supernets are reconstructed in closed form.

Published: four rounds of 50 generations of 128 offspring, up to four switches each, selected on 2,048, 16,384
and 131,072 tokens that keep 16, 4 and 1; the first interval is 12.5 % of a block. Scaled down here as
`evopress.py` is. There, blocks are solved on what all levels of the blocks below give in the mean; here on
what the dense model gives, and the final reconstruction corrects that.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from lathe.compressor.search.level_grid import LevelGrid
from lathe.compressor.search.level_switch import LevelSwitching, unguided
from lathe.compressor.search.method import Problem, SearchResult, methods
from lathe.compressor.search.methods.evopress import (
    EVOPRESS,
    SURVIVORS,
    noted,
    staged_fitness,
    uniform_start,
)
from lathe.compressor.search.methods.lathe import search_result

_ROUNDS = 4
_INTERVAL = 0.125
"""Of neighbouring levels in the first round, as a share of a block's."""
_SWITCHES = 4


def search(problem: Problem) -> SearchResult:
    """Finds a plan from coarse to fine levels; `evaluations` of the problem are offspring of all rounds."""
    rng, every = random.Random(problem.seed), LevelGrid.worthwhile(problem.space, problem.constraints)
    plan = uniform_start(problem, unguided(every, problem.constraints, rng))
    ends = [problem.evaluations * number // _ROUNDS for number in range(_ROUNDS + 1)]
    with problem.progress.stage("search: plans", problem.evaluations) as bar:
        evaluate = staged_fitness(problem, bar)
        for number, (before, end) in enumerate(pairwise(ends)):
            moves = unguided(every.around(plan, _INTERVAL / 2**number), problem.constraints, rng)
            switching = LevelSwitching(moves, evaluate, SURVIVORS, _SWITCHES, within_kinds=True)
            note = noted(bar, f"round {number + 1} of {_ROUNDS}, ")
            value, plan = switching.run(plan, end - before, note)
    return search_result(problem, plan, value)


methods.add("tyr", replace(EVOPRESS, name="tyr", search=search))
