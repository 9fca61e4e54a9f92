"""Joint removal: sets chosen together in every group, and all kept weights of a row solved for together.

`mrp` is multiple removal as published (Zhao et al., arXiv 2410.15567): the set of every group by its least
increase, then the optimum of all kept weights. `joint` goes on from there with masks that alternate
(`alternation.py`), and keeps for every row what errs less.
"""

from __future__ import annotations

import torch

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.closed_form import damped
from lathe.compressor.reconstruction.error_feedback import DAMPING, inverse_factor, with_inputs
from lathe.compressor.reconstruction.kept_weights import solve_kept, squared_errors
from lathe.compressor.reconstruction.patterns.alternation import alternated_mask
from lathe.compressor.reconstruction.patterns.group_removal import remove_groups
from lathe.compressor.reconstruction.patterns.registry import PatternMethod, pattern_methods


def remove_jointly(weight_RC: torch.Tensor, gram_CC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prunes a matrix by multiple removal."""
    gram_CC = with_inputs(gram_CC)
    weight_RC = weight_RC.float()
    removed = remove_groups(weight_RC, inverse_factor(gram_CC), pattern)
    return solve_kept(weight_RC, damped(gram_CC, DAMPING), removed, removed != 0)


def prune(weight_RC: torch.Tensor, gram_CC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prunes a matrix by multiple removal and alternation, row by row the better of the two."""
    weight_RC = weight_RC.float()
    first = remove_jointly(weight_RC, gram_CC, pattern)
    gram_CC = damped(with_inputs(gram_CC), DAMPING)
    kept = alternated_mask(weight_RC, gram_CC, first, pattern)
    other = solve_kept(weight_RC, gram_CC, first, kept)
    better = squared_errors(other, weight_RC, gram_CC) < squared_errors(first, weight_RC, gram_CC)
    return torch.where(better, other, first)


pattern_methods.add("mrp", PatternMethod(remove_jointly))
pattern_methods.add("joint", PatternMethod(prune, corrects=True))
