"""Rules that give every matrix its group: the columns of a row that share a scale.

Every rule chooses among the groups that a matrix can have (`groups_for`), in whatever it is rounded: to
nearest, with compensation, in a model that is timed.

Shapes: R rows (outputs), C columns (inputs), G groups of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.model.rounding import GROUPS, QuantizedMatrix, quantize_in_groups, quantize_matrix

ALPHA = 0.93
"""The threshold of `adaptive`. It is ours: the ratio of normally distributed values in groups of 256."""


@dataclass(frozen=True)
class GroupRule:
    """Gives every matrix its group; without size and alpha, by `quantize_matrix`: what a group costs it.

    The `groups` of the methods are those that the matrix can have, the largest first.

    Attributes:
        size: The group of all matrices, or the next smaller one that a matrix can have.
        alpha: The threshold of FineQuant's rule, `adaptive_group`, which does not depend on the bits.
    """

    size: int | None = None
    alpha: float | None = None

    def __str__(self) -> str:
        """Returns a name that tells rules apart: of those that `--group-size` takes, the option's."""
        if self.size is not None:
            return str(self.size)
        if self.alpha is not None:
            return "adaptive" if self.alpha == ALPHA else f"adaptive-{self.alpha:g}"
        return "auto"

    def group(self, weight_RC: torch.Tensor, bits: int, groups: Sequence[int]) -> int:
        """Returns the group of a matrix."""
        if self.size is not None:
            return next((group for group in groups if group <= self.size), groups[-1])
        if self.alpha is not None:
            return adaptive_group(weight_RC, groups, self.alpha)
        return quantize_matrix(weight_RC, bits, groups).group

    def group_of_random(self, weight_RC: torch.Tensor, bits: int, groups: Sequence[int]) -> int:
        """Returns the group of a matrix of normally distributed values, in little time."""
        if self == BY_ERROR:
            return next(group for group in groups if bits == 8 or group <= 128)
        return self.group(weight_RC, bits, groups)

    def quantize(self, weight_RC: torch.Tensor, bits: int, groups: Sequence[int]) -> QuantizedMatrix:
        """Rounds a matrix to nearest in its group."""
        if self == BY_ERROR:
            return quantize_matrix(weight_RC, bits, groups)
        return quantize_in_groups(weight_RC, bits, self.group(weight_RC, bits, groups))


BY_ERROR = GroupRule()
RULES = {
    str(rule): rule
    for rule in (BY_ERROR, GroupRule(alpha=ALPHA), *(GroupRule(size) for size in sorted(GROUPS)))
}
"""What `--group-size` takes."""


def check_group_size(name: str) -> None:
    """Checks what `--group-size` was given.

    Raises:
        UserError: there is no such rule.
    """
    if name not in RULES:
        raise UserError(f"--group-size {name} is unknown", f"Choose of {', '.join(RULES)}.")


def group_ranges(weight_RC: torch.Tensor, group: int) -> torch.Tensor:
    """Returns the largest magnitude of every group, [R, G]: half the range that its codes have to span."""
    padded = torch.nn.functional.pad(weight_RC.float().abs(), (0, -weight_RC.shape[1] % group))
    return padded.unflatten(1, (-1, group)).amax(-1)


def range_ratio(weight_RC: torch.Tensor, group: int, smaller: int) -> float:
    """Returns the mean, over the smaller groups, of their range over that of the group they are part of.

    Groups of zeros count as 1: there is nothing to gain.
    """
    fine, coarse = group_ranges(weight_RC, smaller), group_ranges(weight_RC, group)
    parents = torch.arange(fine.shape[1], device=fine.device) * smaller // group
    return float((fine / coarse[:, parents]).nan_to_num(1.0).mean())


def adaptive_group(weight_RC: torch.Tensor, groups: Sequence[int], alpha: float) -> int:
    """Returns the group by FineQuant's rule (arXiv 2308.09723, Sec. 3), which reads the weights alone.

    Begins with the largest group, and takes the next smaller one, as a rule half of it, while that narrows
    the range by more than a share 1 - alpha: while `range_ratio` is below `alpha`. The paper's own test and
    threshold were not to be had; both are our reading.

    Args:
        weight_RC: The matrix.
        groups: Those to choose from, the largest first; the last is the floor.
        alpha: The threshold.
    """
    for group, smaller in pairwise(groups):
        if range_ratio(weight_RC, group, smaller) >= alpha:
            return group
    return groups[-1]
