"""The output error of each level of a block, from statistics alone; sensitivities are interpolated by it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, LayerShape, ModelShape
from lathe.compressor.model.pruning import ImportanceRanking, rows, select
from lathe.compressor.reconstruction import ProjectionPruner
from lathe.compressor.search.space import Space


def level_errors(
    shape: ModelShape, space: Space, ranking: ImportanceRanking, pruners: Mapping[BlockKind, ProjectionPruner]
) -> dict[BlockKind, torch.Tensor]:
    """Returns the mean squared error per token of the output of a layer's blocks at each level.

    Args:
        shape: The dense model's dimensions.
        space: The levels of blocks.
        ranking: The layer's ranking.
        pruners: Prune the layer's output projections, by "attention" and "ffn".

    Returns:
        [levels] float64, widest first, by "attention" and "ffn".
    """
    heads = [
        rows(select(ranking, LayerShape(q, kv, 0)).query_heads, shape.head_dim) for q, kv in space.attention
    ]
    channels = [select(ranking, LayerShape.of((0, 0), width)).channels for width in space.ffn]
    return {
        kind: torch.tensor([pruners[kind].error(kept) for kept in levels], dtype=torch.float64)
        for kind, levels in zip(BLOCK_KINDS, (heads, channels), strict=True)
    }
