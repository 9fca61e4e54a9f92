"""The table of sensitivities: KL(dense || subnet) of each block at each level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from lathe.artefact.plan import BLOCK_KINDS, BlockKind
from lathe.compressor.search.method import Problem
from lathe.compressor.search.plan_evaluator import PlanEvaluator
from lathe.compressor.search.shrinkage import better_table
from lathe.compressor.search.space import Level, Space

MEASURED = 5
"""Levels of a block that are evaluated."""


def sensitivity_table(problem: Problem, evaluator: PlanEvaluator, measured: int = MEASURED) -> np.ndarray:
    """Makes the table of KL in nats per token of each block at each level, with all other blocks dense.

    Between the measured levels the root of the sensitivity is interpolated: it is nearly linear in the root
    of the squared error of the block's output. The table is shrunk (`shrinkage.py`) where that does no harm.

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
    return better_table(problem, evaluator, table)


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
