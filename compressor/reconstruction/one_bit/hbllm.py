"""HBLLM by rows: the Haar bands of a block's rows, binarized in two groups of every row.

(Chen et al., arXiv 2512.00862; facts of its code: salient columns are filled up with the mean of their
neighbours before the transform along rows, and are binarized themselves in bands of pairs of rows.)
Magnitudes are of least squares here, the code's are root mean squares, which err more. A mean serves both
groups of a band, but not of salient columns.

Shapes: R rows, K columns of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.compressor.reconstruction.one_bit.haar import evened, haar, inverse_haar
from lathe.compressor.reconstruction.one_bit.registry import binarizations
from lathe.compressor.reconstruction.one_bit.row_groups import in_row_groups
from lathe.compressor.reconstruction.one_bit.saliency import salient_columns
from lathe.compressor.reconstruction.one_bit.storage import Storage

_NEAR = 3
"""Columns to either side whose mean fills up a salient one."""


@dataclass(frozen=True)
class Settled:
    """A block whose values are chosen together: a column's depend on others.

    Attributes:
        values: [R, K]
        storage: What they take.
    """

    values: torch.Tensor
    storage: Storage

    def settle(self, at: int, _column_R: torch.Tensor) -> torch.Tensor:
        """Returns what a column becomes, [R]."""
        return self.values[:, at]


@binarizations.register("hbllm")
def hbllm(block_RK: torch.Tensor, factors_K: torch.Tensor) -> Settled:
    """Binarizes a block of columns."""
    (rows, columns), salient = block_RK.shape, salient_columns(block_RK, factors_K)
    bands = haar(evened(filled(block_RK, salient)))
    values = inverse_haar(*(in_row_groups(band, one_mean=True) for band in bands))[:, :columns].contiguous()
    if salient.any():
        bands = haar(evened(block_RK[:, salient].T))
        pairs = inverse_haar(*(in_row_groups(band.T.contiguous(), one_mean=False).T for band in bands))
        values[:, salient] = pairs[:, :rows].T
    return Settled(values, _storage(rows, columns, int(salient.sum())))


def filled(block_RK: torch.Tensor, salient_K: torch.Tensor) -> torch.Tensor:
    """Returns the block with the mean of near columns that are not salient in the place of each that is."""
    found, others = block_RK.clone(), (~salient_K).nonzero()[:, 0]
    for column in salient_K.nonzero()[:, 0]:
        distances = (others - column).abs()
        near = others[distances <= max(_NEAR, int(distances.min()))]
        found[:, column] = block_RK[:, near].mean(1)
    return found


def _storage(rows: int, columns: int, salient: int) -> Storage:
    even_rows, even_columns = (rows + rows % 2) * bool(salient), columns + columns % 2
    coefficients = rows * even_columns + even_rows * salient
    bands, groups = 2, 2
    return Storage(
        weights=rows * columns,
        signs=coefficients,
        masks=coefficients + columns,
        scales=rows * bands * (groups + 1) + even_rows // 2 * bands * groups * 2,
    )
