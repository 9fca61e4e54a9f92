"""Norms of all heads together, when heads go: queries and keys keep their size.

The subnet divides by the root mean square of the heads that are left. Where these are larger or smaller than
the others were, every score would change; the norm's weights make up for that on average.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lathe.artefact.plan import ModelShape
from lathe.compressor.model.names import K_NORM, Q_NORM
from lathe.compressor.model.pruning import Selection
from lathe.compressor.statistics import LastingStatistics


def rescale_qk_norm(
    shape: ModelShape,
    statistics: LastingStatistics,
    kept: Selection,
    attention: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """A cut attention block with its norms adjusted; as it is where each head has its own, or is dropped."""
    block = dict(attention)
    if not (block and shape.qk_norm and shape.qk_norm_whole):
        return block
    for norm, squares, heads in (
        (Q_NORM, statistics.queries, kept.query_heads),
        (K_NORM, statistics.keys, kept.kv_heads),
    ):
        ratio = squares[heads].mean() / squares.mean().clamp_min(1e-30)
        name = f"{norm}.weight"
        block[name] = block[name] * ratio.sqrt().to(block[name].dtype)
    return block
