"""Rounding a matrix to codes and scales: to nearest, symmetric, without calibration.

Of several scales, from no clipping to some, each group takes the one with the least squared error, as
compressed-tensors' `mse` observer does.

Letters: R rows (outputs), C columns (inputs), G groups of a row, K columns of a group.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_SHARES = tuple(1 - 0.04 * step for step in range(10))
"""Scales that are tried: shares of those that clip nothing."""
_BLOCK = 2**22
"""Values that are rounded at a time."""


def round_matrix(
    weight_RC: torch.Tensor, bits: int, group: int | None = None, *, clip: bool = True, signed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, int8 [R, C], and scales, float32 [R, G] of bfloat16's digits: the matrix is nearly codes times
    scales.

    Args:
        group: columns that share a scale, a divisor of C; None: all of a row.
        clip: try scales that clip the largest values, too.
        signed: try scales of either sign that put the largest magnitude at -2^(bits-1), too, the code that
            symmetric rounding wastes.
    """
    rows, columns = weight_RC.shape
    groups_RGK = weight_RC.float().reshape(rows, -1, group or columns)
    shares = _SHARES if clip else _SHARES[:1]
    found = [_round(part, bits, shares, signed) for part in groups_RGK.split(max(1, _BLOCK // columns))]
    codes_RGK, scales_RG = (torch.cat(parts) for parts in zip(*found, strict=True))
    return codes_RGK.view(rows, columns), scales_RG


def relative_error(weight_RC: torch.Tensor, codes_RC: torch.Tensor, scales_RG: torch.Tensor) -> float:
    """Norm of what rounding changed over the norm of the matrix."""
    values = scales_RG.float().repeat_interleave(codes_RC.shape[1] // scales_RG.shape[1], 1).mul_(codes_RC)
    return float((values - weight_RC).norm() / weight_RC.norm().clamp(min=1e-30))


def _round(
    groups_RGK: torch.Tensor, bits: int, shares: tuple[float, ...], signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    half = 2 ** (bits - 1)
    scales, least = torch.ones_like(groups_RGK[..., :1]), torch.full_like(groups_RGK[..., :1], torch.inf)
    for tried in _scales(groups_RGK, half, shares, signed):
        codes = (groups_RGK / tried).round_().clamp_(-half, half - 1)
        error = codes.mul_(tried).sub_(groups_RGK).square_().sum(-1, keepdim=True)
        scales, least = torch.where(error < least, tried, scales), torch.minimum(error, least)
    codes = (groups_RGK / scales).round_().clamp_(-half, half - 1)
    return codes.to(torch.int8), scales.squeeze(-1)


def _scales(
    groups_RGK: torch.Tensor, half: int, shares: tuple[float, ...], signed: bool
) -> Iterator[torch.Tensor]:
    largest = groups_RGK.abs().amax(-1, keepdim=True)
    ends = [largest / (half - 1)]
    if signed:
        ends.append(groups_RGK.gather(-1, groups_RGK.abs().argmax(-1, keepdim=True)) / -half)
    for end in ends:
        for share in shares:
            tried = (end * share).bfloat16().float()
            yield tried.where(tried != 0, 1.0)  # a group of zeros
