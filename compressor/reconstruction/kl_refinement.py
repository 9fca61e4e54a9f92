"""Refining the whole subnet: damped Gauss-Newton steps on KL(dense || subnet), after the reconstruction.

The reconstruction of a block corrects all of the residual stream alike; what counts is what the head makes of
it in the end. With p the dense model's next-token distribution, q the subnet's, n the input of the head
(W [V, D]) and J its Jacobian with respect to all projections of all layers:

    descent = J^T W^T (p - q),    curvature = J^T W^T (diag q - q q^T) W J

solved for in `conjugate_gradients.py`. The targets are the dense model's own distributions; no labels are
needed. A round is one step, linearised anew; a round without gain on held-out windows is dropped.

The text is sharded (`kl_passes.py`): weights and directions go to the processes that hold the shards, and
sums come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from lathe.compressor.compute.array_store import Loaded, Tensors
from lathe.compressor.compute.workers import LocalWorkers, Workers, summed
from lathe.compressor.reconstruction.conjugate_gradients import (
    Factors,
    Parts,
    add,
    factors_of,
    iterates,
    small_step,
)
from lathe.compressor.reconstruction.kl_passes import KLPasses, KLProblem
from lathe.compressor.statistics.gram import merge_into_first

ITERATIONS = 4
WORTHWHILE = 0.98
"""A round that leaves more than this share of the divergence is the last."""
_DAMPING = 1.0


def refine_model(
    problem: KLProblem,
    advance: Callable[[], None] = lambda: None,
    workers: Workers | None = None,
    iterations: int = ITERATIONS,
) -> tuple[Sequence[Tensors], float, float]:
    """Returns the layers after one round, and KL(dense || subnet) per held-out token before and after it.

    Args:
        problem: The dense model, the subnet and the text.
        advance: Called after every iteration.
        workers: Run the passes.
        iterations: The most iterations of conjugate gradients.
    """
    step = ModelStep(problem, workers or LocalWorkers())
    rest = iterates(step, iterations, patience=1)
    best = next(rest)
    before = best[0]
    advance()
    for error, weights in rest:
        advance()
        if error < best[0]:
            best = (error, weights)
    return problem.layers(best[1]), before, best[0]


class ModelStep:
    """The problem of one round around the subnet's present weights."""

    def __init__(self, problem: KLProblem, workers: Workers) -> None:
        self._problem, self._workers, self.store = problem, workers, problem.store

    @property
    def start(self) -> Parts:
        """Returns the subnet's present projections, layer by layer."""
        return Loaded(len(self._problem.subnet), self._problem.projections)

    def error(self, weights: Parts) -> float:
        """Returns KL in nats per held-out token."""
        (parts,) = self._workers.map_shards(self._problem, KLPasses.divergences, weights)
        batches = [batch for part in parts for batch in part]
        return sum(windows * kl for windows, kl in batches) / sum(windows for windows, _ in batches)

    def descent(self) -> Parts:
        """Returns minus the gradient per token."""
        return self._summed(self._workers.map_shards(self._problem, KLPasses.descent))

    def curvature(self, direction: Parts) -> Parts:
        """Returns J^T H J direction per token."""
        length = small_step(self.start, direction)
        moved = self.store.keep(add(self.start, direction, length))
        return self._summed(self._workers.map_shards(self._problem, KLPasses.curvature, moved, length))

    def factors(self) -> Factors:
        """Makes the preconditioner from gradients at tokens that the subnet samples, on a few batches."""
        ridges: list[dict[str, float]] = []

        def inverses() -> Iterator[Tensors]:
            for parts in self._workers.map_shards(self._problem, KLPasses.grams):
                found, ridge = factors_of(merge_into_first(parts), _DAMPING)
                ridges.insert(0, ridge)
                yield found

        return Factors(self.store.keep(inverses(), backwards=True), ridges, self._problem.free)

    def _summed(self, answers: Iterable[Iterable[Tensors]]) -> Parts:
        found = self.store.keep(map(summed, answers), backwards=True)
        return self.store.keep(self._problem.free(found)) if self._problem.keep_zeros else found
