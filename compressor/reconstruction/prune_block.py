"""Pruning one block of a layer: its tensors, its output projection solved anew, its norms rescaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from lathe.artefact.plan import BlockKind, ModelShape
from lathe.compressor.model.output_projection import output
from lathe.compressor.model.pruning import Selection, prune_attention, prune_ffn, rows
from lathe.compressor.reconstruction.head_norms import rescale_qk_norm
from lathe.compressor.statistics import LastingStatistics

Solve = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(dense output projection [D, n], kept columns [k]) -> the pruned one [D, k]."""


def prune_block(
    shape: ModelShape,
    kind: BlockKind,
    dense: Mapping[str, torch.Tensor],
    selection: Selection,
    solve: Solve,
    statistics: LastingStatistics | None = None,
) -> dict[str, torch.Tensor]:
    """Prunes one block of a layer; returns its tensors, none where the block is dropped.

    Args:
        shape: The dense model's dimensions.
        kind: "attention" or "ffn".
        dense: The layer's dense weights.
        selection: The heads and channels to keep.
        solve: Makes the output projection of a block that loses columns.
        statistics: The layer's statistics, by which norms over all heads are rescaled; None leaves them.
    """
    name = output(kind)
    if kind == "attention":
        block = prune_attention(shape, dense, selection)
        columns = rows(selection.query_heads, shape.head_dim)
    else:
        block, columns = prune_ffn(dense, selection), selection.channels
    weight = dense[f"{name}.weight"]
    if not block or len(columns) == weight.shape[1]:
        return block
    block[f"{name}.weight"] = solve(weight, columns)
    if kind == "attention" and statistics is not None:
        return rescale_qk_norm(shape, statistics, selection, block)
    return block
