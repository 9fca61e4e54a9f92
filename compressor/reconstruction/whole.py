"""The subnet as a whole: damped Gauss-Newton steps on KL(dense || subnet), after every block was reformed.

A block's reform mends the residual stream, all of it alike; what counts is what the head makes of it in the
end. With p the dense model's next-token distribution, q the subnet's, n what the head (W [V, D]) reads and J
its Jacobian by all projections of all layers:

    descent = J^T W^T (p - q),    curvature = J^T W^T (diag q - q q^T) W J

solved for in `conjugate.py`. The targets are the dense model's own distributions: no labels. A round is one
step, linearised anew; a round that no held-out window gains from is dropped.

The text is sharded (`passes.py`): weights and directions go to who holds the shards, and sums come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from lathe.compressor.compute.array_store import Loaded, Tensors
from lathe.compressor.compute.workers import LocalWorkers, Workers, summed
from lathe.compressor.reconstruction.conjugate import Factors, Parts, add, factors_of, iterates, small_step
from lathe.compressor.reconstruction.passes import KLPasses, KLProblem
from lathe.compressor.statistics.gram import merged

ITERATIONS = 4
WORTHWHILE = 0.98
"""A round that leaves more than this share of the divergence is the last."""
_DAMPING = 1.0


def refine_model(
    text: KLProblem, advance: Callable[[], None] = lambda: None, workers: Workers | None = None
) -> tuple[Sequence[Tensors], float, float]:
    """The layers after one round, and KL(dense || subnet) in nats per held-out token before and after it.

    advance: called after every iteration.
    """
    step = ModelStep(text, workers or LocalWorkers())
    found = iterates(step, ITERATIONS, patience=1)
    best = next(found)
    before = best[0]
    advance()
    for error, weights in found:
        advance()
        if error < best[0]:
            best = (error, weights)
    return text.layers(best[1]), before, best[0]


class ModelStep:
    """The problem of one round around the subnet's present weights."""

    def __init__(self, text: KLProblem, workers: Workers) -> None:
        self._text, self._workers, self.store = text, workers, text.store

    @property
    def start(self) -> Parts:
        return Loaded(len(self._text.subnet), self._text.projections)

    def error(self, weights: Parts) -> float:
        """KL in nats per held-out token."""
        (parts,) = self._workers.map_shards(self._text, KLPasses.divergences, weights)
        found = [batch for part in parts for batch in part]
        return sum(rows * kl for rows, kl in found) / sum(rows for rows, _ in found)

    def descent(self) -> Parts:
        return self._summed(self._workers.map_shards(self._text, KLPasses.descent))

    def curvature(self, direction: Parts) -> Parts:
        length = small_step(self.start, direction)
        moved = self.store.keep(add(self.start, direction, length))
        return self._summed(self._workers.map_shards(self._text, KLPasses.curvature, moved, length))

    def factors(self) -> Factors:
        """From the gradients of tokens drawn from the subnet's own distribution, on a few batches."""
        ridges: list[dict[str, float]] = []

        def inverses() -> Iterator[Tensors]:
            for parts in self._workers.map_shards(self._text, KLPasses.grams):
                found, ridge = factors_of(merged(parts), _DAMPING)
                ridges.insert(0, ridge)
                yield found

        return Factors(self.store.keep(inverses(), backwards=True), ridges)

    def _summed(self, answers: Iterable[Iterable[Tensors]]) -> Parts:
        return self.store.keep(map(summed, answers), backwards=True)
