"""Magnitude pruning: the largest weights of every group stay as they are."""

from __future__ import annotations

import torch

from lathe.compressor.model.pattern import Pattern
from lathe.compressor.reconstruction.patterns.choice import highest
from lathe.compressor.reconstruction.patterns.registry import PatternMethod, pattern_methods


def prune(weight_RC: torch.Tensor, _gram_CC: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prunes a matrix."""
    return weight_RC * highest(weight_RC.abs(), pattern)


pattern_methods.add("magnitude", PatternMethod(prune))
