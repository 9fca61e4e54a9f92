"""Masks found by alternating between the squared error and the pattern (ADMM).

With D a matrix that has the pattern, V the multipliers and rho growing, every step solves

    W = (T G + rho (D - V)) (G + rho I)^-1,    D = the pattern nearest to W + V,    V = V + W - D

(Meng et al., ALPS, arXiv 2406.07831, Sec. 3, whose inputs are scaled to a unit diagonal of G, too.) All
groups of a row move at once, which settling one group after another cannot do.
"""

from __future__ import annotations

import torch

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.choice import highest

_RHO, _GROWTH = 0.3, 1.3
_STEPS, _AT_A_TIME = 10, 3
"""rho grows so many times, and stays for so many steps."""


def alternated_mask(
    target_RC: torch.Tensor, gram_CC: torch.Tensor, start_RC: torch.Tensor, pattern: Pattern
) -> torch.Tensor:
    """Returns which weights stay, [R, C] bool.

    Args:
        target_RC: The matrix whose outputs are to be met.
        gram_CC: X^T X / n of the inputs, damped, float64.
        start_RC: A matrix that has the pattern.
        pattern: The pattern.
    """
    scale_C = gram_CC.diagonal().sqrt()
    scaled_CC = gram_CC / scale_C / scale_C[:, None]
    wanted = (target_RC * scale_C.to(target_RC)) @ scaled_CC.to(target_RC)
    near = start_RC * scale_C.to(start_RC)
    multipliers, rho = torch.zeros_like(near), _RHO
    for _ in range(_STEPS):
        damped = scaled_CC.clone()
        damped.diagonal().add_(rho)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped)).to(target_RC)
        for _ in range(_AT_A_TIME):
            moved = (wanted + rho * (near - multipliers)) @ inverse + multipliers
            near = moved * highest(moved.abs(), pattern)
            multipliers = moved - near
        rho *= _GROWTH
    return highest(near.abs(), pattern)
