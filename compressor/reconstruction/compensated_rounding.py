"""Rounding in which the columns that are left make up for the error of those rounded already.

The columns of W are rounded in the frame of `error_feedback.py`, those with the largest inputs first. The
scales are chosen before, each with the least squared error weighted by the inputs' mean squares, so that
groups stay groups of neighbouring columns whatever the order.

Shapes: R rows (outputs), C columns (inputs), P columns with those that fill up the last group, G groups of a
row, K columns of a group.
"""

from __future__ import annotations

import torch

from lathe.compressor.model.rounding import QuantizedMatrix, best_scales, relative_error
from lathe.compressor.reconstruction.error_feedback import (
    Settle,
    inverse_factor,
    settle_columns,
    with_inputs,
)

_AT_ONCE = 2**15
"""Values whose columns are rounded before their errors are spread over all others, as one product. PyTorch
does not divide work on fewer among threads, which would wait for each other at every column."""
_MOST_COLUMNS = 128


def round_compensated(
    weight_RC: torch.Tensor, gram_CC: torch.Tensor, bits: int, group: int, signed: bool = True
) -> QuantizedMatrix:
    """Quantizes a matrix so that its outputs change little.

    Args:
        weight_RC: The matrix.
        gram_CC: X^T X / n of its inputs.
        bits: Of a code.
        group: Columns that share a scale.
        signed: Whether scales may be negative.
    """
    columns = weight_RC.shape[1]
    fill = -columns % group
    weight_RP = torch.nn.functional.pad(weight_RC.float(), (0, fill))
    gram_PP = torch.nn.functional.pad(gram_CC.double(), (0, fill, 0, fill))
    squares_P, gram_PP = gram_PP.diagonal().clone(), with_inputs(gram_PP)
    scales_RG = best_scales(weight_RP, bits, group, squares_P.float(), signed)
    order = squares_P.argsort(descending=True, stable=True)
    ordered = gram_PP[order][:, order]
    codes = _round_columns(
        weight_RP[:, order], inverse_factor(ordered), scales_RG.repeat_interleave(group, 1)[:, order], bits
    )
    codes_RP = torch.empty_like(codes)
    codes_RP[:, order] = codes
    error = relative_error(weight_RP, codes_RP, scales_RG)
    return QuantizedMatrix(codes_RP, scales_RG, group, bits, columns, error)


def _round_columns(
    weight_RP: torch.Tensor, upper_PP: torch.Tensor, scales_RP: torch.Tensor, bits: int
) -> torch.Tensor:
    """Returns the codes, int8 [R, P]."""
    half, scales = 2 ** (bits - 1), scales_RP.T.contiguous()
    codes = torch.empty_like(scales, dtype=torch.int8)

    def begin(start: int, _part: torch.Tensor) -> Settle:
        def settle(at: int, column: torch.Tensor) -> torch.Tensor:
            scale = scales[start + at]
            code = (column / scale).round_().clamp_(-half, half - 1)
            codes[start + at] = code
            return code.mul_(scale)

        return settle

    at_once = max(8, min(_MOST_COLUMNS, _AT_ONCE // scales.shape[1]))
    settle_columns(weight_RP, upper_PP, at_once, begin)
    return codes.T.contiguous()
