"""How much of a block's output each level loses, from statistics alone: what damages are interpolated by."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, LayerShape, ModelShape
from lathe.compressor.model.pruning import ImportanceRanking, rows, select
from lathe.compressor.reconstruction import ProjectionPruner
from lathe.compressor.search.space import Space


def level_errors(
    shape: ModelShape, space: Space, order: ImportanceRanking, reforms: Mapping[BlockKind, ProjectionPruner]
) -> dict[BlockKind, torch.Tensor]:
    """By "attention" and "ffn", [levels] float64: the mean squared error per token of the block's output at
    each level, widest first, with these closed-form reforms of a layer's output projections.
    """
    heads = [
        rows(select(order, LayerShape(q, kv, 0)).query_heads, shape.head_dim) for q, kv in space.attention
    ]
    channels = [select(order, LayerShape.of((0, 0), width)).channels for width in space.ffn]
    return {
        kind: torch.tensor([reforms[kind].error(kept) for kept in levels], dtype=torch.float64)
        for kind, levels in zip(BLOCK_KINDS, (heads, channels), strict=True)
    }
