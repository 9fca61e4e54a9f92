"""One matrix, binarized in blocks of columns whose errors the later columns make up for.

The groups and scales of a block are chosen when all blocks before it are settled; then its columns take their
nearest levels one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lathe.compressor.reconstruction.error_feedback import Settle, settle_columns
from lathe.compressor.reconstruction.one_bit.registry import Binarization
from lathe.compressor.reconstruction.one_bit.storage import Storage

BLOCK = 128
"""Columns of a block."""


@dataclass(frozen=True)
class OneBitMatrix:
    """A binarized matrix.

    Attributes:
        values: What the weights are, float32 [R, C].
        storage: What they take.
    """

    values: torch.Tensor
    storage: Storage


def binarize_matrix(
    weight_RC: torch.Tensor, upper_CC: torch.Tensor, binarization: Binarization, block: int = BLOCK
) -> OneBitMatrix:
    """Binarizes a matrix so that its outputs change little.

    Args:
        weight_RC: The matrix.
        upper_CC: Its inputs' `inverse_factor`.
        binarization: Makes the code of a block.
        block: The columns of one.
    """
    storage, factors = Storage(), upper_CC.diagonal()

    def begin(start: int, part_KR: torch.Tensor) -> Settle:
        nonlocal storage
        code = binarization(part_KR.T.contiguous(), factors[start : start + len(part_KR)])
        storage += code.storage
        return code.settle

    values = settle_columns(weight_RC.float(), upper_CC, block, begin)
    return OneBitMatrix(values, storage)
