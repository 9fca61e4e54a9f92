"""Binarization of rows: a mean, a magnitude, and signs; and once more of what that leaves.

With b = sign(w - mu), the magnitude of least squares is the mean of |w - mu|. The second order binarizes the
residual in the same way; its mean joins the first one (BiLLM: Huang et al., arXiv 2402.04291, Sec. 3.2).

Shapes: R rows, K columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lathe.compressor.reconstruction.one_bit.levels import nearest, sign


class Once(NamedTuple):
    """Of every row, float32 [R, 1]: a mean, and how far from it values are."""

    mean: torch.Tensor
    magnitude: torch.Tensor


class Twice(NamedTuple):
    """Of every row, float32 [R, 1]: a mean, and two magnitudes."""

    mean: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


def binarize(values_RK: torch.Tensor, mask_RK: torch.Tensor) -> Once:
    """Returns the binarization of the values of a mask, which is zeros and ones; zeros for a row without."""
    counts = mask_RK.sum(1, keepdim=True).clamp_min(1)
    mean = (values_RK * mask_RK).sum(1, keepdim=True) / counts
    return Once(mean, ((values_RK - mean).abs_() * mask_RK).sum(1, keepdim=True) / counts)


def binarize_twice(values_RK: torch.Tensor) -> Twice:
    """Returns the residual binarization of whole rows."""
    mean = values_RK.mean(1, keepdim=True)
    left = values_RK - mean
    first = left.abs().mean(1, keepdim=True)
    left -= sign(left) * first
    second_mean = left.mean(1, keepdim=True)
    return Twice(mean + second_mean, first, (left - second_mean).abs_().mean(1, keepdim=True))


def error_once(values_RK: torch.Tensor, mask_RK: torch.Tensor) -> float:
    """Returns the sum of squares that `binarize` leaves."""
    mean, magnitude = binarize(values_RK, mask_RK)
    left = (values_RK - mean).abs_() - magnitude
    return float((left * mask_RK).square_().sum())


def error_twice(values_RK: torch.Tensor) -> float:
    """Returns the sum of squares that `binarize_twice` leaves."""
    if not values_RK.shape[1]:
        return 0.0
    return float((values_RK - nearest(values_RK, *binarize_twice(values_RK))).square_().sum())
