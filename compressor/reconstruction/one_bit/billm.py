"""BiLLM: salient columns binarized twice; of the others, small and large weights apart.

(Huang et al., arXiv 2402.04291; facts of its code: the count of salient columns, means beside magnitudes.)
A row of a block has one mean and two magnitudes for its salient weights, a mean and a magnitude for either
group of the others. One bit per weight that is not salient says its group; one per column, its kind.

Shapes: R rows, K columns of a block.
"""

from __future__ import annotations

import torch

from lathe.compressor.reconstruction.one_bit.binarization import binarize, binarize_twice
from lathe.compressor.reconstruction.one_bit.break_point import above_break
from lathe.compressor.reconstruction.one_bit.levels import Levels, in_16_bits
from lathe.compressor.reconstruction.one_bit.registry import binarizations
from lathe.compressor.reconstruction.one_bit.saliency import salient_columns
from lathe.compressor.reconstruction.one_bit.storage import Storage


@binarizations.register("billm")
def billm(block_RK: torch.Tensor, factors_K: torch.Tensor) -> Levels:
    """Binarizes a block of columns."""
    (rows, columns), salient = block_RK.shape, salient_columns(block_RK, factors_K)
    centre, first, second = block_RK.new_zeros(3, rows, columns)
    others = block_RK[:, ~salient]
    above = above_break(others)
    below, beyond = binarize(others, 1 - above), binarize(others, above)
    centre[:, ~salient] = torch.where(above > 0, beyond.mean, below.mean)
    first[:, ~salient] = torch.where(above > 0, beyond.magnitude, below.magnitude)
    count = int(salient.sum())
    if count:
        twice = binarize_twice(block_RK[:, salient])
        for kept, found in zip((centre, first, second), twice, strict=True):
            kept[:, salient] = found
    centre, first, second = map(in_16_bits, (centre, first, second))
    return Levels(centre, first, second, _storage(rows, columns, count))


def _storage(rows: int, columns: int, salient: int) -> Storage:
    return Storage(
        weights=rows * columns,
        signs=rows * (columns + salient),
        masks=rows * (columns - salient) + columns,
        scales=rows * (2 * 2 + 3 * bool(salient)),
    )
