"""One damped Gauss-Newton step over named weight matrices, by preconditioned conjugate gradients.

With outputs y(theta) ~ y(theta0) + J d and a loss of curvature H in them, the best change d solves

    (J^T H J / n + ridge) d = -(gradient of the loss)

J^T v is a backward pass, J p a difference of two forward passes. The preconditioner is Kronecker-factored
(K-FAC, arXiv 1503.05671): each matrix has the Gram matrix of its inputs and that of the gradients at its
outputs. Stopping at the least error on held-out text is the regularisation.

A vector is a sequence of parts (blocks, or layers), each by weight name; only one part need be in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch

from lathe.compressor.compute.array_store import ArrayStore, Tensors
from lathe.compressor.reconstruction.closed_form import damp
from lathe.compressor.statistics.gram import Grams

Parts = Sequence[Tensors]
_DIFFERENCE = 1e-3


class Step(Protocol):
    """The problem of one step: weights by name, and the loss and its curvature around them.

    Attributes:
        store: Keeps vectors.
    """

    store: ArrayStore

    @property
    def start(self) -> Parts:
        """Returns the present weights."""

    def error(self, weights: Parts) -> float:
        """Returns the loss on held-out windows."""

    def descent(self) -> Parts:
        """Returns minus the gradient per token, on the windows to fit."""

    def curvature(self, direction: Parts) -> Parts:
        """Returns J^T H J direction per token."""

    def factors(self) -> Factors:
        """Returns the preconditioner, and the ridge that goes with it."""


class Factors:
    """Kronecker factors of the curvature, damped, by part.

    Args:
        inverses: Inverses of the damped Gram matrices, `input NAME` [in, in] and `gradient NAME` [out, out].
        ridges: Ridges by weight name.
        free: Takes out of the parts of a vector what does not change.
    """

    def __init__(
        self,
        inverses: Parts,
        ridges: Sequence[dict[str, float]],
        free: Callable[[Iterable[Tensors]], Iterator[Tensors]] = iter,
    ) -> None:
        self._inverses, self._ridges, self._free = inverses, ridges, free

    def solve(self, residual: Parts) -> Iterator[Tensors]:
        """Applies the preconditioner."""
        return self._free(self._solved(residual))

    def _solved(self, residual: Parts) -> Iterator[Tensors]:
        for part, inverse in zip(residual, self._inverses, strict=True):
            yield {n: inverse[f"gradient {n}"] @ r @ inverse[f"input {n}"] for n, r in part.items()}

    def ridge(self, p: Parts) -> Iterator[Tensors]:
        """Multiplies by the ridges."""
        for part, ridge in zip(p, self._ridges, strict=True):
            yield {n: ridge[n] * v for n, v in part.items()}


def factors_of(sums: Grams, damping: float) -> tuple[Tensors, dict[str, float]]:
    """Returns a part's inverses and ridges, and takes the accumulators out of the sums one by one.

    Args:
        sums: The part's Gram matrices.
        damping: The damping relative to their mean diagonals.
    """
    inverses, ridges = {}, {}
    for name in list(sums.inputs):
        scale = 1.0
        for kind, grams in (("input", sums.inputs), ("gradient", sums.gradients)):
            gram = grams.pop(name).finalize()
            scale *= float(gram.diagonal(dim1=-2, dim2=-1).mean())
            inverses[f"{kind} {name}"] = _inverse(damp(gram, damping))
        ridges[name] = damping * scale
    return inverses, ridges


def _inverse(gram: torch.Tensor) -> torch.Tensor:
    """Inverts in float32, which is enough to guide the steps; in float64 where that has no factor."""
    factor, failed = torch.linalg.cholesky_ex(gram.float())
    if failed.any():
        factor = torch.linalg.cholesky(gram)
    return torch.cholesky_inverse(factor).float()


def iterates(step: Step, count: int, patience: int) -> Iterator[tuple[float, Parts]]:
    """Yields (held-out error, weights): as they are, then after every iteration.

    `patience` iterations in a row that are worse than the best one end it.
    """
    best, keep = step.error(step.start), step.store.keep
    yield best, step.start
    factors = step.factors()
    change = keep({n: torch.zeros_like(w) for n, w in part.items()} for part in step.start)
    residual = step.descent()
    direction = solved = keep(factors.solve(residual))
    worse, slope = 0, dot(residual, solved)
    for _ in range(count):
        if slope <= 0 or worse == patience:
            return
        image = keep(add(step.curvature(direction), factors.ridge(direction)))
        length = slope / dot(direction, image)
        change, residual = keep(add(change, direction, length)), keep(add(residual, image, -length))
        weights = keep(add(step.start, change))
        error = step.error(weights)
        best, worse = (error, 0) if error < best else (best, worse + 1)
        yield error, weights
        solved = keep(factors.solve(residual))
        slope, before = dot(residual, solved), slope
        direction = keep(add(solved, direction, slope / before))


def small_step(start: Parts, direction: Parts) -> float:
    """Returns the factor of a direction at which a difference quotient is taken."""
    return dot(start, start) ** 0.5 / max(dot(direction, direction) ** 0.5, 1e-30) * _DIFFERENCE


def dot(a: Iterable[Tensors], b: Iterable[Tensors]) -> float:
    """Returns the inner product of two vectors."""
    return sum(float((p[n].double() * q[n].double()).sum()) for p, q in zip(a, b, strict=True) for n in p)


def add(a: Iterable[Tensors], b: Iterable[Tensors], factor: float = 1.0) -> Iterator[Tensors]:
    """Yields a + factor * b, part by part."""
    for p, q in zip(a, b, strict=True):
        yield {n: p[n] + factor * q[n] for n in p}
