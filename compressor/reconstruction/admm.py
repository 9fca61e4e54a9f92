"""The paper's "reformation" (arXiv 2409.17372, Sec. 3.4): ADMM with pruned columns projected to zero.

Its printed projection multiplies by the mask of pruned entries; the kept ones are meant.
"""

from __future__ import annotations

import torch


def admm(
    weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor, rho: float = 1.0, iterations: int = 30
) -> torch.Tensor:
    """Returns the corrected columns, [D, k].

    Args:
        weight: [D, n] dense projection.
        gram: [n, n] float64 Gram matrix of its input.
        kept: [k] indices of the kept columns.
        rho: The penalty relative to the mean of G's diagonal, so that text length and activation scale do not
            matter.
        iterations: The number of iterations.
    """
    n = len(gram)
    penalty = rho * gram.diagonal().mean().clamp_min(1e-12)
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(n, dtype=gram.dtype, device=gram.device))
    target = gram @ weight.double().T
    z = torch.zeros_like(target)
    z[kept] = weight.double().T[kept]
    u = torch.zeros_like(target)
    for _ in range(iterations):
        w = torch.cholesky_solve(target + penalty * (z - u), factor)
        z = torch.zeros_like(w)
        z[kept] = (w + u)[kept]
        u = u + w - z
    return z[kept].T.to(weight.dtype)
