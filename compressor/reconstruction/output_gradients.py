"""Gram matrices of the gradients at the outputs of a subnet's matrices: what a change there costs at the end.

The gradients are those of the loss on tokens that the subnet itself samples: their Gram matrix is the
curvature of KL(subnet || changed subnet) by the outputs of one matrix (K-FAC, arXiv 1503.05671).
"""

from __future__ import annotations

from collections.abc import Iterator

from lathe.compressor.compute.array_store import Tensors
from lathe.compressor.compute.workers import Workers
from lathe.compressor.reconstruction.kl_passes import KLPasses, KLProblem
from lathe.compressor.statistics.gram import merge_into_first

TOKENS = 8192
"""About the most tokens that are read."""


def output_gradients(problem: KLProblem, workers: Workers) -> Iterator[Tensors]:
    """Yields [R, R] Gram matrices, float32, by the names of a layer's matrices; the last layer comes first.

    Args:
        problem: The subnet and the text; nothing is asked of the dense model.
        workers: Run the passes.
    """
    for parts in workers.map_shards(problem, KLPasses.grams, inputs=False):
        sums = merge_into_first(parts).gradients
        yield {name: sums.pop(name).finalize().float() for name in list(sums)}
