"""Curves of the best loss so far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

Losses = Sequence[Sequence[float]]
"""Of each seed, of each trial."""


def best_so_far(losses: Losses) -> np.ndarray:
    """Returns [seeds, trials]; a search that ended early keeps its best."""
    most = max(map(len, losses))
    curves = [list(accumulate(one, min)) for one in losses]
    return np.array([curve + [curve[-1]] * (most - len(curve)) for curve in curves])


def quartiles(losses: Losses) -> np.ndarray:
    """Returns the first quartile, the median and the third, [3, trials]."""
    return np.quantile(best_so_far(losses), [0.25, 0.5, 0.75], axis=0)
