"""Norms over all heads together: queries and keys keep their size when heads are pruned.

The subnet divides by the root mean square of the kept heads. Where these are larger or smaller than the
pruned ones were, every attention score would change; the norm's weights compensate for that on average.
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
    """Returns a pruned attention block with its query and key norms rescaled.

    A dropped block, and one in which each head has a norm of its own, is returned as it is.
    """
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
