"""The kept weights of every row, solved for together: the constrained optimum of a given mask.

For a row with the target t and the kept places K, min over w, zero outside of K, of (w - t) G (w - t)^T has
the solution G[K, K] w_K = (G t)_K. Every row has its own K; conjugate gradients solve all rows at once. The
preconditioner is G^-1 with the rows and columns of what is removed left out.
"""

from __future__ import annotations

import torch

_TOLERANCE = 1e-5
"""Rows whose residual is so small a share of the first one are done."""
_MOST = 50


def solve_kept(
    target_RC: torch.Tensor, gram_CC: torch.Tensor, start_RC: torch.Tensor, kept_RC: torch.Tensor
) -> torch.Tensor:
    """Returns the matrix with the least squared error that is zero where nothing is kept, [R, C].

    Args:
        target_RC: The matrix whose outputs are to be met.
        gram_CC: X^T X / n of the inputs, damped, float64.
        start_RC: Where to start.
        kept_RC: bool.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram_CC)).to(target_RC)
    gram = gram_CC.to(target_RC)
    weight = start_RC * kept_RC
    residual = ((target_RC - weight) @ gram) * kept_RC
    solved = (residual @ inverse) * kept_RC
    direction, slope = solved, (residual * solved).sum(1, keepdim=True)
    enough = slope * _TOLERANCE**2
    for _ in range(_MOST):
        if (slope <= enough).all():
            break
        image = (direction @ gram) * kept_RC
        length = slope / (direction * image).sum(1, keepdim=True).clamp_min(1e-30)
        weight = weight + length * direction
        residual = residual - length * image
        solved = (residual @ inverse) * kept_RC
        slope, before = (residual * solved).sum(1, keepdim=True), slope
        direction = solved + slope / before.clamp_min(1e-30) * direction
    return weight


def squared_errors(weight_RC: torch.Tensor, target_RC: torch.Tensor, gram_CC: torch.Tensor) -> torch.Tensor:
    """Returns the mean squared error of every row's output, [R, 1] float64."""
    change = (weight_RC - target_RC).double()
    return ((change @ gram_CC) * change).sum(1, keepdim=True)
