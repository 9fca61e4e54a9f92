"""Solving for all projections of a block at once, after its output projection: a damped Gauss-Newton step.

A block maps its input x to y(theta; x), theta its weight matrices. With y ~ y(theta0) + J d the best d is
a linear least-squares problem,

    min_d  sum_t ||J_t d - (target_t - y_t)||^2 / n + ||d||^2_damping

solved in `conjugate_gradients.py`. It uses neither the model's loss nor labels.

The matrices of all experts are solved for together, and the router is left as it is: its choices depend on
none of them, so that the block is smooth in them (`matrices.py`).
"""

from __future__ import annotations

from itertools import chain

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import summed
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.reconstruction.block_moments import BlockPasses, MapShards
from lathe.compressor.reconstruction.conjugate_gradients import (
    Factors,
    Parts,
    add,
    factors_of,
    iterates,
    small_step,
)
from lathe.compressor.reconstruction.matrices import matrices_of
from lathe.compressor.statistics.gram import merge_into_first

_ITERATIONS = 4
_DAMPING = 1e-2
_PATIENCE = 2


def refine_block(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights, iterations: int = _ITERATIONS
) -> dict[str, torch.Tensor]:
    """Adjusts every projection of a block; returns it as it was where that errs less on held-out windows.

    Args:
        map_shards: Runs the block on the text.
        runner: Runs the block.
        kind: "attention" or "ffn".
        block: The block's present tensors.
        iterations: The most iterations of conjugate gradients.
    """
    step = BlockStep(map_shards, runner, kind, block)
    with torch.enable_grad():
        best = min(iterates(step, iterations, _PATIENCE), key=lambda iterate: iterate[0])
    return step.block(best[1][0])


class BlockStep:
    """The least-squares problem of one block around its present weights; arguments as `refine_block`."""

    def __init__(self, map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights) -> None:
        self._map_shards, self._block, self.store = map_shards, block, ArrayStore()
        self._matrices = matrices_of(runner, kind)
        self.start: Parts = [{n: w.clone() for n, w in self._matrices.split(block).items()}]

    def block(self, weights: Weights) -> dict[str, torch.Tensor]:
        """Returns the whole block with these matrices in the place of `start`."""
        return {**self._block, **self._matrices.join(weights)}

    def error(self, weights: Parts) -> float:
        """Returns the mean squared error per held-out token."""
        shards = self._map_shards(BlockPasses.errors, self.block(weights[0]))
        squares, tokens = zip(*chain.from_iterable(shards), strict=True)
        return float(sum(squares) / sum(tokens))

    def descent(self) -> Parts:
        """Returns minus the gradient per token."""
        return [summed(self._map_shards(BlockPasses.descent, self._block, [*self.start[0]]))]

    def curvature(self, direction: Parts) -> Parts:
        """Returns J^T J direction per token."""
        length = small_step(self.start, direction)
        (moved,) = add(self.start, direction, length)
        return [summed(self._map_shards(BlockPasses.curvature, self._block, moved, length))]

    def factors(self) -> Factors:
        """Makes the preconditioner from random probes of the outputs on a few batches."""
        grams = merge_into_first(self._map_shards(BlockPasses.grams, self._block, [*self.start[0]]))
        inverses, ridges = factors_of(grams, _DAMPING)
        return Factors([inverses], [ridges])
