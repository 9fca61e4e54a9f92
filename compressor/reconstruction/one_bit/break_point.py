"""The break point: weights whose magnitude is below are binarized apart from the others.

Magnitudes of weights have a bell's shape, and one magnitude for all would be far from most
(BiLLM: Huang et al., arXiv 2402.04291, Sec. 3.3).

Shapes: R rows, K columns.
"""

from __future__ import annotations

import torch

from lathe.compressor.reconstruction.one_bit.binarization import error_once
from lathe.compressor.reconstruction.one_bit.saliency import some_rows

_FROM, _TO, _STEPS = 0.10, 0.90, 81
"""The shares of all weights that are tried below it."""


def above_break(values_RK: torch.Tensor) -> torch.Tensor:
    """Returns the mask of values on or above the break point of least error, zeros and ones [R, K]."""
    seen = some_rows(values_RK)
    sizes = seen.abs()

    def error(point: torch.Tensor) -> float:
        above = (sizes >= point).float()
        return error_once(seen, above) + error_once(seen, 1 - above)

    shares = torch.linspace(_FROM, _TO, _STEPS, device=values_RK.device)
    return (values_RK.abs() >= min(torch.quantile(sizes, shares), key=error)).float()
