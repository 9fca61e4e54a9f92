"""Multiple-choice knapsack: one level for each block, least summed sensitivity within the budgets.

Sensitivities are taken as additive over blocks, so one table of single-block sensitivities gives a
near-optimal plan for every budget at once; an evolutionary search can correct what additivity missed. Several
constraints are joined with weights into one (a surrogate relaxation), and its plans are repaired until they
meet all constraints.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from lathe.artefact.plan import Plan
from lathe.compressor.search.block_library import alone_in_layer
from lathe.compressor.search.space import Choices, Constraint

_BINS = 4096
_MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)


def solve(
    space: Choices,
    sensitivities: np.ndarray,
    constraints: Sequence[Constraint],
    within: Plan | None = None,
) -> Plan | None:
    """Returns the plan of least summed sensitivity, or None when even the smallest plan is too big.

    Args:
        space: The levels of blocks.
        sensitivities: Object array [blocks] of float arrays [levels of that block], nats per token.
        constraints: All of them have to hold.
        within: A plan whose blocks contain those of the plan that is returned.
    """
    widest = [0] * len(sensitivities) if within is None else space.indices(within)
    if all(c.allows(space.plan(widest)) for c in constraints):
        return space.plan(widest)
    if within is not None:
        sensitivities = _contained(space, sensitivities, widest)
    plans = []
    for mix in _mixes(len(constraints)):
        costs, limit = _surrogate(space, constraints, mix)
        start = _dynamic_program(sensitivities, costs, limit) or widest
        indices = _repair(space, sensitivities, constraints, start)
        if indices is not None:
            plans.append((sum(sensitivities[b][i] for b, i in enumerate(indices)), indices))
    return space.plan(min(plans)[1]) if plans else None


def total(space: Choices, sensitivities: np.ndarray, plan: Plan) -> float:
    """Returns the summed sensitivity of a plan's blocks in nats per token."""
    return float(sum(sensitivities[block][level] for block, level in enumerate(space.indices(plan))))


def _repair(
    space: Choices, sensitivities: np.ndarray, constraints: Sequence[Constraint], indices: list[int]
) -> list[int] | None:
    """Moves blocks to cheaper levels, the least sensitivity for what is saved first, until all budgets hold.

    No move makes a block dearer by any budget, so that there is an end to them.
    """
    costs = np.array([_flat(c, space, sensitivities) for c in constraints])
    while broken := [n for n, c in enumerate(constraints) if not c.allows(space.plan(indices))]:
        moves = []
        for block, at in enumerate(indices):
            saved = costs[:, block, at, None] - costs[:, block]
            open_to = np.isfinite(sensitivities[block])
            for level in np.flatnonzero((saved.min(0) >= 0) & (saved[broken[0]] > 0)).tolist():
                if not open_to[level]:
                    continue
                rise = float(sensitivities[block][level] - sensitivities[block][at])
                moves.append((rise / float(saved[broken[0], level]), block, level))
        if not moves:
            return None
        _, block, level = min(moves)
        indices[block] = level
    return indices


def _contained(space: Choices, sensitivities: np.ndarray, widest: Sequence[int]) -> np.ndarray:
    """Returns sensitivities that are infinite at the levels that a plan's blocks do not contain."""
    found = np.empty_like(sensitivities)
    for block, ((_, kind), row, at) in enumerate(zip(space.blocks, sensitivities, widest, strict=True)):
        assert kind != "head", "plans within others have the same bits everywhere"
        shapes = [alone_in_layer(kind, level) for level in space.levels(kind)]
        found[block] = np.where([shapes[at].contains(shape) for shape in shapes], row, np.inf)
    return found


def _flat(constraint: Constraint, space: Choices, sensitivities: np.ndarray) -> np.ndarray:
    """Returns costs [blocks, levels]; infinite where a block has fewer levels than another."""
    table = np.full((len(sensitivities), max(map(len, sensitivities))), np.inf)
    for row, (_, kind) in zip(table, space.blocks, strict=True):
        costs = constraint.costs(space, kind)
        row[: len(costs)] = costs
    return table


def _mixes(count: int) -> list[tuple[float, ...]]:
    if count == 1:
        return [(1.0,)]
    grid = itertools.product(_MIXES, repeat=count)
    return sorted({tuple(x / sum(m) for x in m) for m in grid if sum(m) > 0})


def _surrogate(
    space: Choices, constraints: Sequence[Constraint], mix: Sequence[float]
) -> tuple[list[np.ndarray], float]:
    """Returns costs per block and level in units of the joint limit, and the share that blocks may spend."""
    shares = [(share / c.limit, c) for share, c in zip(mix, constraints, strict=True)]
    costs = [
        np.sum([np.multiply(share, c.costs(space, kind)) for share, c in shares], axis=0)
        for _, kind in space.blocks
    ]
    return costs, 1.0 - sum(share * c.outside(space) for share, c in shares)


def _dynamic_program(sensitivities: np.ndarray, costs: list[np.ndarray], limit: float) -> list[int] | None:
    if limit <= 0:
        return None
    best, choices = np.zeros(_BINS + 1), []
    for block_sensitivities, block_cost in zip(sensitivities, costs, strict=True):
        bins = np.ceil(np.maximum(block_cost, 0) / limit * _BINS - 1e-6).astype(int)
        options = np.full((len(bins), _BINS + 1), np.inf)
        for level, used in enumerate(bins):
            if used <= _BINS:
                options[level, used:] = best[: _BINS + 1 - used] + block_sensitivities[level]
        choices.append((options.argmin(0), bins))
        best = options.min(0)
    if not np.isfinite(best[-1]):
        return None
    at, indices = _BINS, []
    for choice, bins in reversed(choices):
        level = int(choice[at])
        indices.append(level)
        at -= int(bins[level])
    return indices[::-1]
