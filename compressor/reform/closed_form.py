"""The closed-form reform.

min over What of ||What X_K - W X||^2 + damping ||What - W_K||^2, where only the columns K stay, has
the solution What = W G'[:, K] (G'[K, K])^-1 with G' = G + damping I: damping draws the solution
towards the original weights, not towards zero. (The paper's Sec. 3.4 problem; its ADMM approaches
the undamped solution.)
"""

from __future__ import annotations

import torch

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """G + damping * mean(diag G) * I, never exactly singular."""
    scale = gram.diagonal().mean().clamp_min(1e-12)
    return gram + damping * scale * torch.eye(len(gram), dtype=gram.dtype)


def reform(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Corrected columns [D, k] of an output projection.

    Args:
        weight: [D, n] dense projection.
        gram: [n, n] float64, already damped, of its dense input.
        kept: [k] column indices.
    """
    cross = gram[:, kept]
    factor = torch.linalg.cholesky(cross[kept])
    solution = torch.cholesky_solve(cross.T @ weight.double().T, factor)
    return solution.T.to(weight.dtype)


def reconstruction_error(
    weight: torch.Tensor, kept_weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor
) -> float:
    """Mean squared error per token of the block's output, ||(What - W) X||^2 / n."""
    difference = -weight.double()
    difference[:, kept] += kept_weight.double()
    return float(((difference @ gram) * difference).sum())


def choose_damping(
    weight: torch.Tensor, fit: torch.Tensor, heldout: torch.Tensor, kept: list[torch.Tensor]
) -> float:
    """The damping whose reforms, over several kept sets, err least on held-out text."""

    def error(damping: float) -> float:
        gram = damped(fit, damping)
        return sum(
            reconstruction_error(weight, reform(weight, gram, k), heldout, k)
            / max(reconstruction_error(weight, weight[:, k], heldout, k), 1e-30)
            for k in kept
        )

    return min(DAMPINGS, key=error)
