"""The closed-form reform.

min over What of ||What X_K - W X||^2 + damping ||What - W_K||^2, where only the columns K stay, has
the solution What = W G'[:, K] (G'[K, K])^-1 with G' = G + damping I: damping draws the solution
towards the original weights, not towards zero. (The paper's Sec. 3.4 problem; its ADMM approaches
the undamped solution.)

Where there is a Gram matrix of each expert, [E, n, n], the columns of each are solved by themselves: each
makes up for what it loses itself. Experts of which no column stays are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """G + damping * mean(diag G) * I, never exactly singular."""
    return damp(gram.clone(), damping)


def damp(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """`damped`, in place."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(damping * diagonal.mean().clamp_min(1e-12))
    return gram


def reform(weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Corrected columns [D, k] of an output projection.

    Args:
        weight: [D, n] dense projection.
        gram: [n, n] float64, already damped, of its dense input.
        kept: [k] column indices; expert by expert.
    """
    if gram.dim() == 3:
        return torch.cat([reform(*part) for part in _by_expert(weight, gram, kept)], 1)
    cross = gram[:, kept]
    target, square = cross.T @ weight.double().T, cross[kept]
    del cross
    solution = torch.cholesky_solve(target, torch.linalg.cholesky(square, out=square))
    return solution.T.to(weight.dtype)


def definite(gram: torch.Tensor) -> bool:
    """Whether it, and so every part of it, has a Cholesky factor."""
    return not torch.linalg.cholesky_ex(gram).info.any()


def reconstruction_error(
    weight: torch.Tensor, kept_weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor
) -> float:
    """Mean squared error per token of the block's output, ||(What - W) X||^2 / n."""
    difference = -weight.double()
    difference[:, kept] += kept_weight.double()
    experts = difference.split(gram.shape[-1], 1)
    grams = gram if gram.dim() == 3 else gram[None]
    return sum(float(((d @ g) * d).sum()) for d, g in zip(experts, grams, strict=True))


def _by_expert(
    weight: torch.Tensor, gram: torch.Tensor, kept: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The arguments of `reform` for each expert of which a column stays, in order."""
    width = gram.shape[-1]
    for expert in (kept // width).unique().tolist():
        own = slice(expert * width, (expert + 1) * width)
        yield weight[:, own], gram[expert], kept[kept // width == expert] - own.start


def choose_damping(
    weight: torch.Tensor, fit: torch.Tensor, heldout: torch.Tensor, kept: list[torch.Tensor]
) -> float:
    """The damping whose reforms, over several kept sets, err least on held-out text. Those that leave a Gram
    of little text not positive definite, as it was rounded, are none."""
    plain = [max(reconstruction_error(weight, weight[:, k], heldout, k), 1e-30) for k in kept]

    def error(damping: float) -> float:
        gram = damped(fit, damping)
        if not definite(gram):
            return math.inf
        return sum(
            reconstruction_error(weight, reform(weight, gram, k), heldout, k) / cut
            for k, cut in zip(kept, plain, strict=True)
        )

    return min(DAMPINGS, key=error)
