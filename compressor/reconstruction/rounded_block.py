"""A block's matrices, rounded with compensation as the ONNX graph stores them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.model.stored_format import group_of, products_of
from lathe.compressor.reconstruction.compensated_rounding import round_compensated


def round_block(weights: Weights, grams: Mapping[str, torch.Tensor], bits: int) -> dict[str, QuantizedMatrix]:
    """Returns a block's matrices as codes and scales, by name.

    Matrices that the graph stacks share the group that the stack has by `quantize_matrix`. Those with the
    same Gram matrix and group are rounded together. Experts are left.

    Args:
        weights: The block.
        grams: [C, C] X^T X / n of the inputs of every matrix that is to be rounded, by name.
        bits: Of a code.
    """
    alike: dict[tuple[int, int], list[str]] = {}
    for stack in products_of(weights):
        asked = [name for name in stack if name in grams]
        group = group_of(weights, stack, bits) if asked else 0
        for name in asked:
            alike.setdefault((id(grams[name]), group), []).append(name)
    rounded: dict[str, QuantizedMatrix] = {}
    for (_, group), together in alike.items():
        matrices = [weights[name] for name in together]
        found = round_compensated(torch.cat(matrices), grams[together[0]], bits, group)
        rounded |= zip(together, _split(found, matrices), strict=True)
    return rounded


def as_moved(found: QuantizedMatrix, weight: torch.Tensor) -> QuantizedMatrix:
    """Returns a rounded matrix with its error against another than the one that was rounded."""
    error = (found.values - weight).norm() / weight.norm().clamp(min=1e-30)
    return replace(found, error=float(error))


def _split(found: QuantizedMatrix, matrices: Sequence[torch.Tensor]) -> Iterator[QuantizedMatrix]:
    """Yields the parts of matrices that were rounded one below the other."""
    counts = [len(matrix) for matrix in matrices]
    parts = zip(matrices, found.codes.split(counts), found.scales.split(counts), strict=True)
    for matrix, codes, scales in parts:
        yield as_moved(replace(found, codes=codes, scales=scales), matrix)
