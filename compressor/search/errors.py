"""How much of a block's output each level loses, from statistics alone: what damages are interpolated by."""

from __future__ import annotations

import torch

from compressor.families import Family
from compressor.forward import Weights
from compressor.plan import LayerShape, ModelShape
from compressor.projection import seen
from compressor.reform import Reforms, damped, sketch
from compressor.search.space import Space
from compressor.statistics import LastingStatistics
from compressor.surgery import LayerOrder, rows, select


def level_errors(
    family: Family,
    shape: ModelShape,
    space: Space,
    weights: Weights,
    statistics: LastingStatistics,
    order: LayerOrder,
    dampings: tuple[float, float],
) -> dict[str, torch.Tensor]:
    """By "attention" and "ffn", [levels] float64: the mean squared error per token of the block's output at
    each level, after the closed-form reform; widest first. weights: of a layer."""
    heads = [
        rows(select(order, LayerShape(q, kv, 0)).query_heads, shape.head_dim) for q, kv in space.attention
    ]
    channels = [select(order, LayerShape.of((0, 0), width)).channels for width in space.ffn]
    found = {}
    for kind, gram, damping, ranked, levels in (
        ("attention", statistics.attention, dampings[0], None, heads),
        ("ffn", statistics.ffn, dampings[1], order.channels, channels),
    ):
        output = sketch(seen(family, shape, weights, kind))
        reforms = Reforms(output, damped(gram, damping), ranked)
        found[kind] = torch.tensor([reforms.error(kept) for kept in levels], dtype=torch.float64)
    return found
