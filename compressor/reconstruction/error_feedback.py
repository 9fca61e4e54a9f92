"""Columns of W settled one after another, with those that are left making up for each.

With G = X^T X / n of the matrix's inputs and U the upper Cholesky factor of G^-1, the error e of a column c
is spread over the later ones so that the output changes least:

    W[:, c+1:] -= e / U[c, c] * U[c, c+1:]

(GPTQ: Frantar et al., arXiv 2210.17323, Sec. 3.) What a column becomes is the caller's.

Shapes: R rows (outputs), C columns (inputs), K columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lathe.compressor.reconstruction.closed_form import damped

DAMPING = 0.01
"""Of the Gram matrix, as a share of its diagonal's mean: GPTQ's own."""

Settle = Callable[[int, torch.Tensor], torch.Tensor]
"""(place of a column in its block, the column as it is now [R]) -> what it becomes [R]."""
Begin = Callable[[int, torch.Tensor], Settle]
"""(first column of a block, its columns as they are now [K, R]) -> what settles them, in order."""


def inverse_factor(gram_CC: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Returns the upper Cholesky factor of the inverse of a damped Gram matrix, float32.

    With G = R R^T, R upper, the inverse is R^-T R^-1, whose factor is R^-1. R is the lower factor of G with
    rows and columns in reverse.
    """
    upper_CC = torch.linalg.cholesky(damped(gram_CC, damping).flip(0, 1)).flip(0, 1)
    eye_CC = torch.eye(len(gram_CC), dtype=upper_CC.dtype, device=upper_CC.device)
    return torch.linalg.solve_triangular(upper_CC, eye_CC, upper=True).float()


def with_inputs(gram_CC: torch.Tensor) -> torch.Tensor:
    """Returns a Gram matrix, float64, in which inputs that are always zero have the mean size of all."""
    gram_CC = gram_CC.double().clone()
    diagonal = gram_CC.diagonal()
    diagonal[diagonal == 0] = diagonal.mean().clamp_min(1e-12)
    return gram_CC


def settle_columns(
    weight_RC: torch.Tensor, upper_CC: torch.Tensor, at_once: int, begin: Begin
) -> torch.Tensor:
    """Returns what the columns of a matrix become, [R, C].

    Args:
        weight_RC: The matrix.
        upper_CC: Its inputs' `inverse_factor`.
        at_once: Columns of a block, whose errors are spread over all behind it as one product.
        begin: Is called once for every block.
    """
    left = weight_RC.T.clone(memory_format=torch.contiguous_format)  # columns are rows, each contiguous
    for start in range(0, len(left), at_once):
        part = left[start : start + at_once]
        settle, errors = begin(start, part), torch.empty_like(part)
        upper = upper_CC[start : start + len(part), start:]
        for at, column in enumerate(part):
            settled = settle(at, column)
            errors[at] = (column - settled) / upper[at, at]
            part[at + 1 :].addr_(upper[at, at + 1 : len(part)], errors[at], alpha=-1)
            column.copy_(settled)
        left[start + len(part) :] -= upper[:, len(part) :].T @ errors
    return left.T.contiguous()
