"""ARB-LLM: BiLLM's columns, with a scale of every row and of every column, and two groups in either kind.

(Li et al., arXiv 2410.03129: ARB-RC with the column-group bitmap. Its code is not published: what the paper
leaves open is as in BiLLM here.) No means are stored. The bit that says a weight's group serves salient
columns, too.

Shapes: R rows, K columns of a block.
"""

from __future__ import annotations

import torch

from lathe.compressor.reconstruction.one_bit.break_point import above_break
from lathe.compressor.reconstruction.one_bit.levels import Levels
from lathe.compressor.reconstruction.one_bit.registry import binarizations
from lathe.compressor.reconstruction.one_bit.row_column import refine_once, refine_twice
from lathe.compressor.reconstruction.one_bit.saliency import salient_columns
from lathe.compressor.reconstruction.one_bit.storage import Storage


@binarizations.register("arb")
def arb(block_RK: torch.Tensor, factors_K: torch.Tensor) -> Levels:
    """Binarizes a block of columns."""
    (rows, columns), salient = block_RK.shape, salient_columns(block_RK, factors_K)
    first, second = block_RK.new_zeros(2, rows, columns)
    for kind in (salient, ~salient):
        values = block_RK[:, kind]
        if not values.shape[1]:
            continue
        above = above_break(values)
        for mask in (above, 1 - above):
            if kind is salient:
                one, other = refine_twice(values, mask)
                second[:, kind] += other * mask
            else:
                one = refine_once(values, mask)
            first[:, kind] += one * mask
    return Levels(torch.zeros_like(first), first, second, _storage(rows, columns, int(salient.sum())))


def _storage(rows: int, columns: int, salient: int) -> Storage:
    groups, terms = 2, 2
    return Storage(
        weights=rows * columns,
        signs=rows * (columns + salient),
        masks=rows * columns + columns,
        scales=groups * (rows * (1 + terms * bool(salient)) + columns - salient + terms * salient),
    )
