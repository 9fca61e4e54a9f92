"""Rows of W settled some at a time, with those that are left making up for each.

What a change E of a matrix costs at the model's end is about tr(E^T B E A): A is the Gram matrix of its
inputs, B that of the gradients of the loss at its outputs (K-FAC, arXiv 1503.05671). The error feedback over
columns knows only A. Over rows the same holds for B, as in YAQA (arXiv 2505.22988, Sec. 4): with V the upper
Cholesky factor of B^-1 and e what settling some rows S changed, those behind, T, become

    W[T] -= V[S, T]^T V[S, S]^-T e

Rows with the largest gradients come first. Those of one step do not make up for each other.

Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.reconstruction.error_feedback import inverse_factor

ROWS = 64
"""The most rows of a matrix that are settled in a step."""
_DAMPING = 0.1
"""Of B, as a share of its diagonal's mean: it is of fewer tokens than A, and noisier."""

RoundRows = Callable[[torch.Tensor], QuantizedMatrix]
"""Rounds some rows [n, C]."""


def round_by_rows(
    weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], round_rows: RoundRows
) -> list[QuantizedMatrix]:
    """Returns matrices rounded row by row, with feedback in each; those that read the same go together.

    Args:
        weights: The matrices, [R, C] each.
        gradients: The Gram matrix of the gradients at the outputs of each, [R, R].
        round_rows: Rounds some rows of all of them.
    """
    steps = -(-max(map(len, weights)) // ROWS)
    matrices = [_Rows(w, b, steps) for w, b in zip(weights, gradients, strict=True)]
    for step in range(steps):
        asked = [matrix.rows(step) for matrix in matrices]
        counts = [len(rows) for rows in asked]
        found = round_rows(torch.cat(asked))
        places = torch.arange(len(found)).split(counts)
        for matrix, at in zip(matrices, places, strict=True):
            matrix.settle(step, found[at])
    return [matrix.settled() for matrix in matrices]


class _Rows:
    """A matrix some of whose rows are settled."""

    def __init__(self, weight_RC: torch.Tensor, gradient_RR: torch.Tensor, steps: int) -> None:
        gradient_RR = gradient_RR.double()
        order = gradient_RR.diagonal().argsort(descending=True, stable=True)
        self._upper = inverse_factor(gradient_RR[order][:, order], _DAMPING)
        self._order, self._left = order, weight_RC.float()[order]
        self._bounds = [len(order) * step // steps for step in range(steps + 1)]
        self._found: list[QuantizedMatrix] = []

    def rows(self, step: int) -> torch.Tensor:
        return self._left[self._at(step)]

    def settle(self, step: int, found: QuantizedMatrix) -> None:
        at = self._at(step)
        here = self._upper[at, at]
        errors = torch.linalg.solve_triangular(here.T, self._left[at] - found.values, upper=False)
        self._left[at.stop :] -= self._upper[at, at.stop :].T @ errors
        self._found.append(found)

    def settled(self) -> QuantizedMatrix:
        return QuantizedMatrix.stacked(self._found)[self._order.argsort()]

    def _at(self, step: int) -> slice:
        return slice(*self._bounds[step : step + 2])
