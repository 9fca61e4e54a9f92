"""Wanda: weights count by their magnitude times the norm of what they read, and stay as they are.

(Sun et al., arXiv 2306.11695, Eq. 1.)
"""

from __future__ import annotations

import torch

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.choice import highest
from lathe.compressor.reconstruction.patterns.registry import PatternMethod, pattern_methods


def prune(weight_RC: torch.Tensor, gram_CC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prunes a matrix."""
    return weight_RC * highest(weight_RC.abs() * gram_CC.diagonal().sqrt().float(), pattern)


pattern_methods.add("wanda", PatternMethod(prune))
