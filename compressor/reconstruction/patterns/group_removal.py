"""Groups of columns settled one after another, the weights of a group removed together.

With G = X^T X / n of a row's inputs, A = G^-1 of the columns that are not settled yet, and M a set of places
in the next group, the least increase of the row's squared error without the weights w_M, and the change of
all others that leaves it (Zhao et al., arXiv 2410.15567: multiple removal; Hassibi and Stork's optimal brain
surgeon for several weights):

    increase = w_M (A[M, M])^-1 w_M^T / 2,    change = -w_M (A[M, M])^-1 A[M, :]

All sets of a group are compared. With U the upper Cholesky factor of the whole inverse, A of the columns from
the group S on is U[S:, S:]^T U[S:, S:], so that A[S, :] = U[S, S]^T U[S, S:]: one factor serves all rows and
groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.sparsegpt import COLUMNS


class Removal(NamedTuple):
    """The cheapest set of every row of a group.

    Attributes:
        removed: [M, R] bool.
        errors: [M, R], by which `U[S, S:]^T errors` is what the row's columns from S on lose.
    """

    removed: torch.Tensor
    errors: torch.Tensor


def remove_groups(weight_RC: torch.Tensor, upper_CC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Returns a matrix [R, C] pruned group by group; what remains of a group stays when it is settled.

    Args:
        weight_RC: The matrix.
        upper_CC: Its inputs' `inverse_factor`.
        pattern: The pattern.
    """
    left, group = weight_RC.T.clone(memory_format=torch.contiguous_format), pattern.group
    at_once = COLUMNS // group * group
    for start in range(0, len(left), at_once):
        part = left[start : start + at_once]
        upper, errors = upper_CC[start : start + len(part), start:], torch.empty_like(part)
        for at in range(0, len(part), group):
            here = slice(at, at + group)
            found = cheapest_removal(part[here], upper[here, here], pattern)
            errors[here] = found.errors
            part[at:] -= upper[here, at : len(part)].T @ found.errors
            part[here].masked_fill_(found.removed, 0.0)
        left[start + len(part) :] -= upper[:, len(part) :].T @ errors
    return left.T.contiguous()


def cheapest_removal(group_MR: torch.Tensor, upper_MM: torch.Tensor, pattern: Pattern) -> Removal:
    """Returns the removal of least increase in every row.

    Args:
        group_MR: The weights of a group, as they are now.
        upper_MM: The group's part of the factor.
        pattern: The pattern.
    """
    inverse_MM = upper_MM.double().T @ upper_MM.double()
    least = torch.full_like(group_MR[0], torch.inf)
    errors = torch.zeros_like(group_MR)
    removed = torch.zeros_like(group_MR, dtype=torch.bool)
    for places in map(list, pattern.removed):
        weights = group_MR[places]
        multipliers = torch.linalg.inv(inverse_MM[places][:, places]).to(weights) @ weights
        increase = (weights * multipliers).sum(0)
        better = increase < least
        least = torch.where(better, increase, least)
        errors = torch.where(better, upper_MM[:, places] @ multipliers, errors)
        inside = torch.zeros(len(group_MR), 1, dtype=torch.bool, device=group_MR.device)
        inside[places] = True
        removed = torch.where(better, inside, removed)
    return Removal(removed, errors)
