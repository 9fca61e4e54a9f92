"""A (1 + lambda) evolution by level switches (EvoPress, Sieberling et al., arXiv 2410.14649, Alg. 1).

Nothing is known of the blocks beforehand. Every generation makes offspring of the one parent by level
switches and selects them in stages: on little text first, the fewer that are left on more. The best takes the
parent's place where it is better.

There, levels are equally far apart in parameters, so that a switch leaves their sum as it is. Here they are
not in milliseconds, and several budgets may hold: blocks drawn at random move down until all budgets do, then
others up as far as there is room.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import lt

import numpy as np

from lathe.artefact.plan import Plan
from lathe.compressor.search.evolution import Evaluate, Moves
from lathe.compressor.search.level_grid import LevelGrid
from lathe.compressor.search.space import Constraint

_OFFSPRING, _TRIES = 16, 10
"""Offspring of a generation, and how often each may turn out to be an earlier plan."""


def unguided(grid: LevelGrid, constraints: Sequence[Constraint], rng: random.Random) -> Moves:
    """Returns the moves between the levels of a grid, of blocks that nothing is known of."""
    equal = np.empty(len(grid.levels), dtype=object)
    for block, levels in enumerate(grid.levels):
        equal[block] = np.zeros(len(levels))
    return Moves(grid, constraints, equal, rng)


@dataclass(frozen=True)
class LevelSwitching:
    """The evolution of one parent.

    Attributes:
        moves: The levels of blocks, and the budgets.
        evaluate: (plans, stage) -> the fitness of each, on more text the later the stage.
        survivors: How many plans each stage keeps; the last keeps 1.
        switches: The most level switches of an offspring; fewer are more often.
        within_kinds: Whether a switch is between two attention blocks or two FFNs.
    """

    moves: Moves
    evaluate: Evaluate
    survivors: Sequence[int]
    switches: int
    within_kinds: bool = False

    def run(
        self, parent: Plan, evaluations: int, generation_done: Callable[[float], None]
    ) -> tuple[float, Plan]:
        """Returns the best plan with its fitness of the last stage.

        Args:
            parent: The plan to start from, within the budgets.
            evaluations: The number of offspring.
            generation_done: Called with the best fitness after every generation.
        """
        (best,) = self.evaluate([parent], len(self.survivors) - 1)
        seen = {parent}
        while evaluations > 0 and (offspring := self._offspring(parent, seen, min(_OFFSPRING, evaluations))):
            evaluations -= len(offspring)
            value, plan = self._selected(offspring)
            if value < best:
                best, parent = value, plan
            generation_done(best)
        return best, parent

    def _offspring(self, parent: Plan, seen: set[Plan], count: int) -> list[Plan]:
        """Returns at most so many new plans, and adds them to those seen."""
        offspring = []
        for _ in range(_TRIES * count):
            child = self.switched(parent)
            if child not in seen:
                seen.add(child)
                offspring.append(child)
            if len(offspring) == count:
                break
        return offspring

    def _selected(self, rivals: list[Plan]) -> tuple[float, Plan]:
        """Selects in all stages; returns the best plan. Neighbours in a stage share the most blocks."""
        for stage, survivors in enumerate(self.survivors):
            rivals = sorted(rivals, key=self.moves.space.indices)
            ranked = sorted(zip(self.evaluate(rivals, stage), rivals, strict=True), key=lambda item: item[0])
            rivals = [plan for _, plan in ranked[:survivors]]
        return ranked[0]

    def switched(self, plan: Plan) -> Plan:
        """Returns a plan after some level switches, within the budgets and with room for no wider block.

        It is the plan itself where the levels leave no way back into the budgets.
        """
        moves, indices = self.moves, self.moves.space.indices(plan)
        draw = moves.rng.randint
        for _ in range(min(draw(1, self.switches), draw(1, self.switches))):
            self._switch(indices)
        if not self._repaired(indices):
            return plan
        moves.fill(indices)
        return moves.space.plan(indices)

    def _repaired(self, indices: list[int]) -> bool:
        """Moves random blocks down until all budgets hold; tells whether the levels have a way there.

        A block moves to the next level that saves of a budget that does not hold: some save nothing.
        """
        moves = self.moves
        while broken := [c for c in moves.constraints if not c.allows(moves.space.plan(indices))]:
            costs = self._costs(indices, broken)
            free = moves.lowerable(indices)
            if not free:
                return False
            block = moves.rng.choice(free)
            while block in free and not any(map(lt, self._costs(indices, broken), costs)):
                indices[block] += 1
                free = moves.lowerable(indices)
        return True

    def _costs(self, indices: list[int], constraints: Sequence[Constraint]) -> list[float]:
        plan = self.moves.space.plan(indices)
        return [c.cost(plan) for c in constraints]

    def _switch(self, indices: list[int]) -> None:
        """Moves one block a level up and another a level down, where there are such."""
        moves = self.moves
        kinds = [kind for _, kind in moves.space.blocks]
        ups = [block for block, level in enumerate(indices) if level > 0]
        if not ups:
            return
        up = moves.rng.choice(ups)
        downs = [
            block
            for block in moves.lowerable(indices)
            if block != up and not (self.within_kinds and kinds[block] != kinds[up])
        ]
        if downs:
            indices[up] -= 1
            indices[moves.rng.choice(downs)] += 1
