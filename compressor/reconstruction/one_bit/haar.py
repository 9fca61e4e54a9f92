"""One step of the Haar transform: neighbours become their sum and their difference, both over sqrt(2).

Shapes: R rows, K columns, an even number.
"""

from __future__ import annotations

import math

import torch


def haar(values_RK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the low and the high band of rows, [R, K / 2] each."""
    even, odd = values_RK[:, ::2], values_RK[:, 1::2]
    return (even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2)


def inverse_haar(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Returns the rows that have these bands, [R, K]."""
    return torch.stack([low + high, low - high], -1).flatten(1) / math.sqrt(2)


def evened(values_RK: torch.Tensor) -> torch.Tensor:
    """Returns the values with the last column once more where their number is odd."""
    return torch.cat([values_RK, values_RK[:, -1:]], 1) if values_RK.shape[1] % 2 else values_RK
