"""Two groups of every row, parted by a magnitude of the row's own, each binarized.

Shapes: R rows, K columns.
"""

from __future__ import annotations

import torch

from lathe.compressor.reconstruction.one_bit.binarization import Once, binarize
from lathe.compressor.reconstruction.one_bit.levels import in_16_bits, sign

_FROM, _TO, _STEPS = 0.10, 0.90, 41
"""The shares of a row that are tried below its break point."""


def in_row_groups(values_RK: torch.Tensor, one_mean: bool) -> torch.Tensor:
    """Returns the values binarized in two groups of every row, with the break points of least error.

    Args:
        values_RK: The values.
        one_mean: Whether the groups of a row have one mean, that of the row.
    """
    sizes, mean = values_RK.abs(), values_RK.mean(1, keepdim=True)
    shares = torch.linspace(_FROM, _TO, _STEPS, device=values_RK.device)
    least, best = torch.full_like(mean, torch.inf), torch.zeros_like(values_RK)
    for points in torch.quantile(sizes, shares, dim=1, keepdim=True):
        above = (sizes >= points).float()
        tried = torch.zeros_like(values_RK)
        for mask in (above, 1 - above):
            found = _about(values_RK, mask, mean) if one_mean else binarize(values_RK, mask)
            centre, magnitude = map(in_16_bits, found)
            tried += (centre + sign(values_RK - centre) * magnitude) * mask
        error = (values_RK - tried).square_().sum(1, keepdim=True)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def _about(values_RK: torch.Tensor, mask_RK: torch.Tensor, mean_R1: torch.Tensor) -> Once:
    counts = mask_RK.sum(1, keepdim=True).clamp_min(1)
    return Once(mean_R1, ((values_RK - mean_R1).abs_() * mask_RK).sum(1, keepdim=True) / counts)
