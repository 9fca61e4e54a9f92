"""A block's matrices, rounded with compensation as the ONNX graph stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.model.stored_format import group_of, products_of
from lathe.compressor.reconstruction.closed_form import damped
from lathe.compressor.reconstruction.compensated_rounding import ColumnRounding
from lathe.compressor.reconstruction.error_feedback import DAMPING, with_inputs
from lathe.compressor.reconstruction.kept_weights import solve_kept
from lathe.compressor.reconstruction.row_feedback import round_by_rows

Grams = Mapping[str, torch.Tensor]
"""[C, C] X^T X / n of the inputs of the matrices that are to be rounded, by name."""
BlockRounding = Callable[[Weights, Grams, Weights], Mapping[str, torch.Tensor | QuantizedMatrix]]
"""(a block, Gram matrices, matrices that were solved again) -> the block's rounded matrices by name."""
AS_STORED: Weights = MappingProxyType({})


def round_block(
    weights: Weights,
    grams: Grams,
    solved: Weights = AS_STORED,
    *,
    bits: int,
    groups: GroupRule = BY_ERROR,
    gradients: Grams = AS_STORED,
    keep_zeros: bool = False,
) -> dict[str, QuantizedMatrix]:
    """Returns a block's matrices as codes and scales, by name; their errors are against the block's.

    Matrices that the graph stacks share the group of the stack. Those with the same Gram matrix and group are
    rounded together. Experts are left.

    Args:
        weights: The block.
        grams: Those of all that is to be rounded.
        solved: What is rounded in the place of the block's own matrices.
        bits: Of a code.
        groups: Gives each stack its group.
        gradients: [R, R] the Gram matrix of the gradients at the outputs of each matrix, by name. Matrices
            that have none are rounded by their inputs alone.
        keep_zeros: Whether weights that are zero stay zero, where there are no such gradients.
    """
    if keep_zeros:
        solved = {name: _with_zeros_of(weights[name], w, grams[name]) for name, w in solved.items()}
    found: dict[str, int] = {}
    for stack in products_of(weights):
        asked = [name for name in stack if name in grams]
        if asked:
            found |= dict.fromkeys(asked, group_of(weights, stack, bits, groups))
    return round_in_groups(weights, grams, solved, bits, found, gradients=gradients, keep_zeros=keep_zeros)


def round_in_groups(
    weights: Weights,
    grams: Grams,
    solved: Weights,
    bits: int,
    groups: Mapping[str, int],
    signed: bool = True,
    gradients: Grams = AS_STORED,
    keep_zeros: bool = False,
) -> dict[str, QuantizedMatrix]:
    """Does what `round_block` does, with the groups of the matrices by name.

    `signed`: scales may be negative.
    """
    alike: dict[tuple[int, int], list[str]] = {}
    for name, group in groups.items():
        alike.setdefault((id(grams[name]), group), []).append(name)
    rounded: dict[str, QuantizedMatrix] = {}
    for (_, group), together in alike.items():
        matrices = [solved.get(name, weights[name]) for name in together]
        round_rows = ColumnRounding(grams[together[0]], bits, group, signed, keep_zeros)
        if all(name in gradients for name in together):
            parts = round_by_rows(matrices, [gradients[name] for name in together], round_rows)
        else:
            parts = _split(round_rows(torch.cat(matrices)), map(len, matrices))
        for name, part in zip(together, parts, strict=True):
            rounded[name] = _against(part, weights[name])
    return rounded


def _with_zeros_of(weight: torch.Tensor, solved: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Returns the matrix nearest to a solved one in its outputs that has the zeros of a block's own."""
    return solve_kept(solved, damped(with_inputs(gram), DAMPING), weight, weight != 0)


def _split(found: QuantizedMatrix, counts: Iterable[int]) -> list[QuantizedMatrix]:
    """Returns the parts of what was rounded one below the other."""
    return [found[rows] for rows in torch.arange(len(found)).split([*counts])]


def _against(found: QuantizedMatrix, matrix: torch.Tensor) -> QuantizedMatrix:
    """Returns a rounded matrix with its error against that of the block."""
    error = (found.values - matrix).norm() / matrix.norm().clamp(min=1e-30)
    return replace(found, error=float(error))
