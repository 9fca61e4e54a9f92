"""A block's matrices, rounded with compensation as the ONNX graph stores them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.rounding import QuantizedMatrix, groups_for, quantize_matrix
from lathe.compressor.model.stored_format import products_of
from lathe.compressor.reconstruction.compensated_rounding import round_compensated


def round_block(
    weights: Weights, grams: Mapping[str, torch.Tensor], bits: int, names: Collection[str] | None = None
) -> dict[str, QuantizedMatrix]:
    """Returns a block's matrices as codes and scales, by name.

    Matrices that the graph stacks share the group that the stack has by `quantize_matrix`. Experts are left.

    Args:
        weights: The block.
        grams: [C, C] X^T X / n of every matrix's inputs, by name.
        bits: Of a code.
        names: Those to round; all that have a Gram matrix by default.
    """
    rounded: dict[str, QuantizedMatrix] = {}
    for stack in products_of(weights):
        asked = [name for name in stack if name in (grams if names is None else names)]
        if not asked:
            continue
        rows = torch.cat([weights[name] for name in stack])
        group = quantize_matrix(rows, bits, groups_for(rows.shape[1])).group
        rounded |= {name: round_compensated(weights[name], grams[name], bits, group) for name in asked}
    return rounded
