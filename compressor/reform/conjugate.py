"""One damped Gauss-Newton step over named weight matrices, by preconditioned conjugate gradients.

With outputs y(theta) ~ y(theta0) + J d and a loss of curvature H in them, the best change d solves

    (J^T H J / n + ridge) d = -(gradient of the loss)

J^T v is a backward pass, J p a difference of two forward ones. The preconditioner is Kronecker-factored
(K-FAC, arXiv 1503.05671): for every matrix, the Gram of what it reads and that of the gradients at what it
gives. Stopping where held-out text errs least is the regularisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from compressor.reform.closed_form import damped

Tensors = dict[str, torch.Tensor]
_DIFFERENCE = 1e-3


class Step(Protocol):
    """What is solved for: weights by name, and how the loss and its curvature look around them."""

    start: Tensors

    def error(self, weights: Tensors) -> float:
        """Of held-out windows."""

    def descent(self) -> Tensors:
        """Minus the gradient per token, on the windows to fit."""

    def curvature(self, direction: Tensors) -> Tensors:
        """J^T H J direction per token."""

    def factors(self) -> Factors:
        """The preconditioner, and the ridge that goes with it."""


class Factors:
    """Kronecker factors of the curvature, damped.

    reads, gives: Grams [in, in] and [out, out] by weight name. damping: relative to their mean diagonals.
    """

    def __init__(self, reads: Tensors, gives: Tensors, damping: float) -> None:
        self._reads = {n: torch.linalg.inv(damped(g, damping)).float() for n, g in reads.items()}
        self._gives = {n: torch.linalg.inv(damped(g, damping)).float() for n, g in gives.items()}
        self._ridge = {
            n: damping * float(reads[n].diagonal().mean() * gives[n].diagonal().mean()) for n in reads
        }

    def solve(self, residual: Tensors) -> Tensors:
        return {n: self._gives[n] @ r @ self._reads[n] for n, r in residual.items()}

    def ridge(self, p: Tensors) -> Tensors:
        return {n: self._ridge[n] * v for n, v in p.items()}


def iterates(step: Step, count: int, patience: int) -> Iterator[tuple[float, Tensors]]:
    """(held-out error, weights): as they are, then after every iteration; `patience` worse ones in a row
    end it."""
    best = step.error(step.start)
    yield best, step.start
    factors, change = step.factors(), {n: torch.zeros_like(w) for n, w in step.start.items()}
    left = step.descent()
    direction = solved = factors.solve(left)
    worse, slope = 0, dot(left, solved)
    for _ in range(count):
        if slope <= 0 or worse == patience:
            return
        image = add(step.curvature(direction), factors.ridge(direction))
        length = slope / dot(direction, image)
        change, left = add(change, direction, length), add(left, image, -length)
        weights = add(step.start, change)
        error = step.error(weights)
        best, worse = (error, 0) if error < best else (best, worse + 1)
        yield error, weights
        solved = factors.solve(left)
        slope, before = dot(left, solved), slope
        direction = add(solved, direction, slope / before)


def small_step(start: Tensors, direction: Tensors) -> float:
    """The factor of a direction at which a difference quotient is taken."""
    return dot(start, start) ** 0.5 / max(dot(direction, direction) ** 0.5, 1e-30) * _DIFFERENCE


def dot(a: Tensors, b: Tensors) -> float:
    return sum(float((a[n].double() * b[n].double()).sum()) for n in a)


def add(a: Tensors, b: Tensors, factor: float = 1.0) -> Tensors:
    return {n: a[n] + factor * b[n] for n in a}
