"""Re-solving all projections of a block at once, after its output projection: one damped Gauss-Newton step.

A block maps its input x to y(theta; x), theta its weight matrices. With y ~ y(theta0) + J d the best d is
a linear least-squares problem,

    min_d  sum_t ||J_t d - (target_t - y_t)||^2 / n + ||d||^2_damping

solved in `conjugate.py`. No loss of the model, no labels.

Of an FFN of experts, all are solved for together, and the router is left as it is: what it chooses depends on
none of their matrices, so that the block is smooth in them (`matrices.py`).
"""

from __future__ import annotations

from itertools import chain

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import summed
from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.reconstruction.block_moments import BlockPasses, MapShards
from lathe.compressor.reconstruction.conjugate import Factors, Parts, add, factors_of, iterates, small_step
from lathe.compressor.reconstruction.matrices import matrices_of
from lathe.compressor.statistics.gram import merged

_ITERATIONS = 4
_DAMPING = 1e-2
_PATIENCE = 2


def refine_block(
    map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights, iterations: int = _ITERATIONS
) -> dict[str, torch.Tensor]:
    """The block with every projection adjusted, or as it was where that errs less on held-out windows.

    map_shards: runs a method on every shard. kind: "attention" or "ffn".
    """
    step = BlockStep(map_shards, runner, kind, block)
    with torch.enable_grad():
        best = min(iterates(step, iterations, _PATIENCE), key=lambda found: found[0])
    return step.block(best[1][0])


class BlockStep:
    """The least-squares problem of one block around its present weights; arguments as `refine_block`."""

    def __init__(self, map_shards: MapShards, runner: BlockRunner, kind: BlockKind, block: Weights) -> None:
        self._map_shards, self._block, self.store = map_shards, block, ArrayStore()
        self._matrices = matrices_of(runner, kind)
        self.start: Parts = [{n: w.clone() for n, w in self._matrices.taken(block).items()}]

    def block(self, weights: Weights) -> dict[str, torch.Tensor]:
        """The whole block with these in the place of `start`."""
        return {**self._block, **self._matrices.put(weights)}

    def error(self, weights: Parts) -> float:
        """Mean squared error per held-out token."""
        shards = self._map_shards(BlockPasses.errors, self.block(weights[0]))
        squares, tokens = zip(*chain.from_iterable(shards), strict=True)
        return float(sum(squares) / sum(tokens))

    def descent(self) -> Parts:
        return [summed(self._map_shards(BlockPasses.descent, self._block, [*self.start[0]]))]

    def curvature(self, direction: Parts) -> Parts:
        length = small_step(self.start, direction)
        (moved,) = add(self.start, direction, length)
        return [summed(self._map_shards(BlockPasses.curvature, self._block, moved, length))]

    def factors(self) -> Factors:
        """From random probes of the outputs on a few batches."""
        grams = merged(self._map_shards(BlockPasses.grams, self._block, [*self.start[0]]))
        inverses, ridges = factors_of(grams, _DAMPING)
        return Factors([inverses], [ridges])
