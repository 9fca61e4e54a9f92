"""Evolution over plans with moves that spend the budget and never pass it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.search.space import Constraint, Coordinates

Evaluate = Callable[[Sequence[Plan], int], list[float]]
_OFFSPRING, _SURVIVORS, _PARENTS = 24, 6, 4


@dataclass(frozen=True)
class Moves:
    """Changes of one block by one level.

    Attributes:
        space: The levels of blocks.
        constraints: All of them have to hold.
        sensitivities: Object array [blocks] of [levels]. Of a few blocks drawn at random, the one whose
            sensitivity rises least moves.
        rng: Draws blocks and directions.
    """

    space: Coordinates
    constraints: Sequence[Constraint]
    sensitivities: np.ndarray
    rng: random.Random

    def mutate(self, plan: Plan) -> Plan:
        """Moves some blocks down, then others up until nothing more fits."""
        indices = self.space.indices(plan)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            self.down(indices)
        return self.full(indices)

    def cross(self, a: Plan, b: Plan) -> Plan:
        """Takes each layer from one parent, then moves blocks down until it fits and up until it is full."""
        plan = Plan(tuple(self.rng.choice(pair) for pair in zip(a, b, strict=True)))
        return self.full(self.space.indices(plan if has_attention(plan) else a))

    def full(self, indices: list[int]) -> Plan:
        """Moves blocks down until all constraints hold, then up until no block can move up.

        Raises:
            UserError: no plan with attention is within the constraints.
        """
        while not self.fits(indices):
            if not self.down(indices):
                raise UserError("the targets leave no plan with an attention block", "Relax one of them.")
        self.fill(indices)
        return self.space.plan(indices)

    def fits(self, indices: list[int]) -> bool:
        """Tells whether the plan of these levels is within all constraints."""
        plan = self.space.plan(indices)
        return all(c.allows(plan) for c in self.constraints)

    def down(self, indices: list[int]) -> bool:
        """Moves one block a level down; tells whether any could."""
        free = self.lowerable(indices)
        if not free:
            return False
        drawn = self.rng.sample(free, min(3, len(free)))
        block = min(
            drawn, key=lambda b: self.sensitivities[b][indices[b] + 1] - self.sensitivities[b][indices[b]]
        )
        indices[block] += 1
        return True

    def lowerable(self, indices: list[int]) -> list[int]:
        """Returns the blocks that have a level below; the last attention block of a model is not dropped."""
        free = [b for b, i in enumerate(indices) if i + 1 < len(self.sensitivities[b])]
        if sum(layer.kv_heads > 0 for layer in self.space.plan(indices)) > 1:
            return free
        return [b for b in free if has_attention(self.space.plan(_lowered(indices, b)))]

    def fill(self, indices: list[int]) -> None:
        """Moves blocks up, in random order and by random amounts, until no block can move up."""
        blocks = list(range(len(indices)))
        self.rng.shuffle(blocks)
        self._raise(indices, blocks, 0.5)
        while self._raise(indices, blocks, 1.0):
            pass

    def _raise(self, indices: list[int], blocks: list[int], often: float) -> bool:
        """Moves each block up while it fits, each time with probability `often`; tells whether any moved."""
        before = list(indices)
        for block in blocks:
            while indices[block] > 0 and self.rng.random() < often:
                indices[block] -= 1
                if not self.fits(indices):
                    indices[block] += 1
                    break
        return indices != before


def _lowered(indices: list[int], block: int) -> list[int]:
    return [level + (at == block) for at, level in enumerate(indices)]


def has_attention(plan: Plan) -> bool:
    """Tells whether a plan keeps any attention block; without one, a model cannot distinguish positions."""
    return any(layer.kv_heads for layer in plan)


def evolve(
    seeds: Sequence[Plan],
    moves: Moves,
    evaluate: Evaluate,
    evaluations: int,
    generation_done: Callable[[float], None],
) -> list[tuple[float, Plan]]:
    """Returns the best plans with the fitness that decided between them, best first.

    Args:
        seeds: The first plans.
        moves: Makes new plans of them.
        evaluate: (plans, stage) -> the fitness of each; stage 0 is cheap and ranks offspring, stage 1
            decides. Where there is nothing to decide, seeds are evaluated at stage 0.
        evaluations: The search stops after about this many evaluations, both stages counted.
        generation_done: Called with the best fitness after every generation.
    """
    rng, spent = moves.rng, 0
    population = _evaluated(list(dict.fromkeys(seeds)), int(evaluations > len(seeds)), evaluate)
    spent += len(population)
    seen = {p for _, p in population}
    while spent < evaluations:
        parents = [p for _, p in population[:_PARENTS]]
        offspring = []
        for _ in range(4 * _OFFSPRING):
            crossing = len(parents) > 1 and rng.random() < 0.2
            child = moves.cross(*rng.sample(parents, 2)) if crossing else moves.mutate(rng.choice(parents))
            if child not in seen:
                seen.add(child)
                offspring.append(child)
            if len(offspring) == _OFFSPRING:
                break
        if not offspring:
            break
        ranked = _evaluated(sorted(offspring, key=moves.space.indices), 0, evaluate)
        survivors = _evaluated([p for _, p in ranked[:_SURVIVORS]], 1, evaluate)
        population = sorted([*population, *survivors], key=lambda item: item[0])[: 2 * _SURVIVORS]
        spent += len(offspring) + len(survivors)
        generation_done(population[0][0])
    return population


def _evaluated(plans: Sequence[Plan], stage: int, evaluate: Evaluate) -> list[tuple[float, Plan]]:
    """Evaluates plans and sorts them, best first."""
    return sorted(zip(evaluate(plans, stage), plans, strict=True), key=lambda item: item[0])
