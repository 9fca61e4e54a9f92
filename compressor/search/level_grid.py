"""Some of the levels of every block: those worth their costs, and grids of them around a plan."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lathe.artefact.plan import BlockKind, Plan
from lathe.compressor.search.space import Choice, Constraint, Space

_SIDE = 4
"""Levels of a grid on either side of the plan that it is around."""


@dataclass(frozen=True)
class LevelGrid:
    """Plans of a space as indices of the levels that a grid has.

    Attributes:
        space: The levels of blocks.
        levels: Indices of levels in the space by block, the widest first.
    """

    space: Space
    levels: tuple[tuple[int, ...], ...]

    @classmethod
    def worthwhile(cls, space: Space, constraints: Sequence[Constraint]) -> LevelGrid:
        """Returns the levels that cost less of some budget than every level that has all their units.

        Engines compute channels in tiles, so that many widths cost what the next wider one does.
        """
        kinds: dict[Choice, tuple[int, ...]] = {
            kind: _worthwhile(space, constraints, kind) for _, kind in space.blocks
        }
        return cls(space, tuple(kinds[kind] for _, kind in space.blocks))

    def around(self, plan: Plan, interval: float) -> LevelGrid:
        """Returns nine levels of each block at most, those of a plan in their middle.

        Args:
            plan: The plan.
            interval: The distance of neighbours, as a share of a block's levels; one level at least.
        """
        grids = []
        for levels, at in zip(self.levels, self.indices(plan), strict=True):
            last = len(levels) - 1
            step = max(1, round(interval * last))
            around = (at + side * step for side in range(-_SIDE, _SIDE + 1))
            grids.append(tuple(levels[index] for index in around if 0 <= index <= last))
        return LevelGrid(self.space, tuple(grids))

    @property
    def blocks(self) -> Iterator[tuple[int, Choice]]:
        """Yields (layer, kind) as the space does."""
        yield from self.space.blocks

    def plan(self, indices: Iterable[int]) -> Plan:
        """Returns the plan with these indices of the grid's levels, one per block."""
        return self.space.plan(levels[i] for levels, i in zip(self.levels, indices, strict=True))

    def indices(self, plan: Plan) -> list[int]:
        """Returns one index of the grid's levels per block: the plan's, or the next wider one that it has."""
        found = zip(self.levels, self.space.indices(plan), strict=True)
        return [max(0, bisect_right(levels, level) - 1) for levels, level in found]


def _worthwhile(space: Space, constraints: Sequence[Constraint], kind: BlockKind) -> tuple[int, ...]:
    """Returns indices of levels of a kind, that of the dropped block in any case."""
    levels, costs = space.levels(kind), [c.costs(space, kind) for c in constraints]
    last = len(levels) - 1

    def has_all(other: int, level: int) -> bool:
        return all(a >= b for a, b in zip(_units(levels[other]), _units(levels[level]), strict=True))

    def replaced(level: int) -> bool:
        cheaper = (other for other in range(level) if all(cost[other] <= cost[level] for cost in costs))
        return any(has_all(other, level) for other in cheaper)

    return (*(level for level in range(last) if not replaced(level)), last)


def _units(level: Any) -> tuple[int, ...]:
    return level if isinstance(level, tuple) else (level,)
