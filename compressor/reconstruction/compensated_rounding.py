"""Rounding in which the columns that are left make up for the error of those rounded already.

Round the columns of W one after the other. With G = X^T X / n of the matrix's inputs and U the upper Cholesky
factor of G^-1, the error e of a column c is spread over the later ones so that the output changes least:

    W[:, c+1:] -= e / U[c, c] * U[c, c+1:]

(GPTQ: Frantar et al., arXiv 2210.17323, Sec. 3.) Columns with the largest inputs come first. The scales are
chosen before, each with the least squared error weighted by the inputs' mean squares, so that groups stay
groups of neighbouring columns whatever the order.

Shapes: R rows (outputs), C columns (inputs), P columns with those that fill up the last group, G groups of a
row, K columns of a group.
"""

from __future__ import annotations

import torch

from lathe.compressor.model.rounding import QuantizedMatrix, best_scales, relative_error
from lathe.compressor.reconstruction.closed_form import damped

_DAMPING = 0.01
"""Of the Gram matrix, as a share of its diagonal's mean: GPTQ's own."""
_AT_ONCE = 2**15
"""Values whose columns are rounded before their errors are spread over all others, as one product. PyTorch
does not divide work on fewer among threads, which would wait for each other at every column."""
_MOST_COLUMNS = 128


def round_compensated(
    weight_RC: torch.Tensor, gram_CC: torch.Tensor, bits: int, group: int
) -> QuantizedMatrix:
    """Quantizes a matrix so that its outputs change little.

    Args:
        weight_RC: The matrix.
        gram_CC: X^T X / n of its inputs.
        bits: Of a code.
        group: Columns that share a scale.
    """
    columns = weight_RC.shape[1]
    fill = -columns % group
    weight_RP = torch.nn.functional.pad(weight_RC.float(), (0, fill))
    gram_PP = torch.nn.functional.pad(gram_CC.double(), (0, fill, 0, fill))
    squares_P = gram_PP.diagonal().clone()
    gram_PP.diagonal()[squares_P == 0] = squares_P.mean().clamp_min(1e-12)
    scales_RG = best_scales(weight_RP, bits, group, squares_P.float())
    order = squares_P.argsort(descending=True, stable=True)
    ordered = gram_PP[order][:, order]
    codes = _round_columns(
        weight_RP[:, order], _inverse_factor(ordered), scales_RG.repeat_interleave(group, 1)[:, order], bits
    )
    codes_RP = torch.empty_like(codes)
    codes_RP[:, order] = codes
    error = relative_error(weight_RP, codes_RP, scales_RG)
    return QuantizedMatrix(codes_RP, scales_RG, group, bits, columns, error)


def _inverse_factor(gram_PP: torch.Tensor) -> torch.Tensor:
    """Returns the upper Cholesky factor of the inverse of a damped Gram matrix, float32."""
    lower = torch.linalg.cholesky(damped(gram_PP, _DAMPING))
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()


def _round_columns(
    weight_RP: torch.Tensor, upper_PP: torch.Tensor, scales_RP: torch.Tensor, bits: int
) -> torch.Tensor:
    """Returns the codes, int8 [R, P]. Columns are rows here, which makes each contiguous."""
    half, left, scales = 2 ** (bits - 1), weight_RP.T.contiguous(), scales_RP.T.contiguous()
    codes = torch.empty_like(left, dtype=torch.int8)
    at_once = max(8, min(_MOST_COLUMNS, _AT_ONCE // left.shape[1]))
    for start in range(0, len(left), at_once):
        part = left[start : start + at_once]
        upper, errors = upper_PP[start : start + len(part), start:], torch.empty_like(part)
        for at, column in enumerate(part):
            code = (column / scales[start + at]).round_().clamp_(-half, half - 1)
            codes[start + at] = code
            errors[at] = (column - code * scales[start + at]) / upper[at, at]
            part[at + 1 :].addr_(upper[at, at + 1 : len(part)], errors[at], alpha=-1)
        left[start + len(part) :] -= upper[:, len(part) :].T @ errors
    return codes.T.contiguous()
