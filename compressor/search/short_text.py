"""The text that masks are measured on: windows that are shorter than those of statistics, so more of them."""

from __future__ import annotations

import torch

from lathe.compressor.calibration.tokens import cut, evenly_spaced
from lathe.compressor.search.method import Problem

LENGTH, ROWS = 128, 4
"""Tokens of a window, and windows of a pass."""
_HELDOUT_TOKENS = 2048


def fitted_windows(problem: Problem) -> torch.Tensor:
    """Returns the windows [n, LENGTH] that a search may fit to."""
    return cut(problem.fitted, LENGTH)


def heldout_windows(problem: Problem) -> torch.Tensor:
    """Returns about 2,048 tokens of the others in such windows, spread over them."""
    windows = cut(problem.windows, LENGTH)
    return evenly_spaced(windows, max(1, _HELDOUT_TOKENS // windows.shape[1]))
