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
    return ColumnRounding(gram_CC, bits, group, signed)(weight_RC)


class ColumnRounding:
    """Rounds matrices that read the same.

    Args:
        gram_CC: X^T X / n of their inputs.
        bits: Of a code.
        group: Columns that share a scale.
        signed: Whether scales may be negative.
        keep_zeros: Whether weights that are zero stay zero.
    """

    def __init__(
        self, gram_CC: torch.Tensor, bits: int, group: int, signed: bool = True, keep_zeros: bool = False
    ) -> None:
        self._bits, self._group, self._signed, self._keep_zeros = bits, group, signed, keep_zeros
        self._fill = -len(gram_CC) % group
        gram_PP = torch.nn.functional.pad(gram_CC.double(), (0, self._fill, 0, self._fill))
        self._squares_P = gram_PP.diagonal().clone()
        self._order = self._squares_P.argsort(descending=True, stable=True)
        self._upper_PP = inverse_factor(with_inputs(gram_PP)[self._order][:, self._order])

    def __call__(self, weight_RC: torch.Tensor) -> QuantizedMatrix:
        """Quantizes a matrix."""
        weight_RP = torch.nn.functional.pad(weight_RC.float(), (0, self._fill))
        squares_P = self._squares_P.float()
        scales_RG = best_scales(weight_RP, self._bits, self._group, squares_P, self._signed)
        scales_RP = scales_RG.repeat_interleave(self._group, 1)[:, self._order]
        ordered_RP = weight_RP[:, self._order]
        kept_RP = ordered_RP != 0 if self._keep_zeros else None
        codes = _round_columns(ordered_RP, self._upper_PP, scales_RP, self._bits, kept_RP)
        codes_RP = torch.empty_like(codes)
        codes_RP[:, self._order] = codes
        error = relative_error(weight_RP, codes_RP, scales_RG)
        return QuantizedMatrix(codes_RP, scales_RG, self._group, self._bits, weight_RC.shape[1], error)


def _round_columns(
    weight_RP: torch.Tensor,
    upper_PP: torch.Tensor,
    scales_RP: torch.Tensor,
    bits: int,
    kept_RP: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the codes, int8 [R, P]; 0 where a weight is not kept."""
    half, scales = 2 ** (bits - 1), scales_RP.T.contiguous()
    kept = None if kept_RP is None else kept_RP.T.contiguous()
    codes = torch.empty_like(scales, dtype=torch.int8)

    def begin(start: int, _part: torch.Tensor) -> Settle:
        def settle(at: int, column: torch.Tensor) -> torch.Tensor:
            scale = scales[start + at]
            code = (column / scale).round_().clamp_(-half, half - 1)
            if kept is not None:
                code.mul_(kept[start + at])
            codes[start + at] = code
            return code.mul_(scale)

        return settle

    at_once = max(8, min(_MOST_COLUMNS, _AT_ONCE // scales.shape[1]))
    settle_columns(weight_RP, upper_PP, at_once, begin)
    return codes.T.contiguous()
